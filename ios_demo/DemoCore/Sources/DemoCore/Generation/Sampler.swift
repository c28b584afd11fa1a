import Foundation

/// Chooses the next token: greedily, or by chance as the checkpoint's generation defaults say. Suppressed tokens never
/// come. With one seed the same logits give the same tokens.
public struct Sampler: Sendable {
  public let sampling: Sampling
  private let suppressed: [Int]
  private var random: SplitMix64

  /// - Parameter seed: by default another one each time.
  public init(_ sampling: Sampling, suppressed: [Int], seed: UInt64 = .random(in: 0 ... .max)) {
    self.sampling = sampling
    self.suppressed = suppressed
    random = SplitMix64(state: seed)
  }

  public mutating func choose(_ logits: [Float]) -> Int {
    guard sampling.doSample, sampling.temperature > 0 else { return greedy(logits, suppressed: suppressed) }
    let chances = probabilities(suppress(logits, suppressed), sampling)
    return draw(chances, .random(in: 0..<1, using: &random))
  }
}

/// The first token, in ascending order, at which chances add up to more than a number from [0, 1).
func draw(_ chances: [Int: Double], _ number: Double) -> Int {
  let ascending = chances.sorted { $0.key < $1.key }
  let total = ascending.reduce(0) { $0 + $1.value }
  var sum = 0.0
  for (token, chance) in ascending {
    sum += chance
    if sum / total > number { return token }
  }
  return ascending.last?.key ?? 0
}

/// The likeliest token, the first of equals.
public func greedy(_ logits: [Float], suppressed: [Int]) -> Int {
  let kept = suppress(logits, suppressed)
  return kept.indices.max { kept[$0] < kept[$1] || kept[$0] == kept[$1] && $0 > $1 } ?? 0
}

func suppress(_ logits: [Float], _ ids: [Int]) -> [Float] {
  var kept = logits
  for id in ids { kept[id] = -.infinity }
  return kept
}

/// Chances of the tokens that may come, after temperature, top-k and top-p, in this order, as `generate()` of transformers
/// applies them. Top-p keeps the smallest set of the likeliest whose chances add up to at least `topP`.
func probabilities(_ logits: [Float], _ sampling: Sampling) -> [Int: Double] {
  let kept = largest(sampling.topK == 0 ? logits.count : sampling.topK, of: logits)
  let chances = softmax(kept.map { Double(logits[$0]) / sampling.temperature })
  var before = 0.0
  let nucleus = zip(kept, chances).prefix { _, chance in
    defer { before += chance }
    return before < sampling.topP
  }
  let total = nucleus.reduce(0) { $0 + $1.1 }
  return Dictionary(uniqueKeysWithValues: nucleus.map { ($0.0, $0.1 / total) })
}

/// Indices of the largest values, largest first, equal ones by index.
func largest(_ count: Int, of values: [Float]) -> [Int] {
  func precedes(_ a: Int, _ b: Int) -> Bool { values[a] > values[b] || values[a] == values[b] && a < b }
  guard count < values.count else { return values.indices.sorted(by: precedes) }
  var kept = (0..<count).sorted(by: precedes)
  for index in count..<values.count where precedes(index, kept[count - 1]) {
    kept.removeLast()
    kept.insert(index, at: kept.firstIndex { precedes(index, $0) } ?? kept.endIndex)
  }
  return kept
}

func softmax(_ values: [Double]) -> [Double] {
  let top = values.max() ?? 0
  let raised = values.map { exp($0 - top) }
  let total = raised.reduce(0, +)
  return raised.map { $0 / total }
}

/// A generator with a seed, which the standard library has none of (Steele, Lea and Flood 2014, figure 16).
struct SplitMix64: RandomNumberGenerator {
  var state: UInt64

  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var mixed = state
    mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
    mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
    return mixed ^ (mixed >> 31)
  }
}
