import Foundation

/// What the host of Core ML packages computes for each call, from the manifest's `Host` record alone.
/// `runtime/sessions/coreml_host.py` in Swift.
extension Host {
  /// All inputs but `hidden_states`, by name; each chunk takes those that its function names.
  public func inputs(of call: Call) -> [String: Tensor] {
    attention.values.reduce(into: [:]) { inputs, layers in
      inputs[layers.mask] = layers.mask(of: call, masked: Float(masked))
      (inputs[layers.cos], inputs[layers.sin]) = layers.rotation(of: call)
      inputs[layers.slot] = Tensor([1], [Float(call.start % layers.slots)])
      inputs.merge(layers.placement(of: call)) { _, new in new }
    }
  }
}

extension Attention {
  /// By slot, the position in it once the call has written its own; negative: none yet.
  func held(after call: Call) -> [Int] {
    let last = call.start + call.count - 1
    return (0..<slots).map { last - modulo(last - $0, slots) }
  }

  /// Whether what a position sees is still there when all up to `end` has been written.
  func survives(_ position: Int, end: Int) -> Bool {
    guard let window else { return true }
    return end <= slots || end - position <= slots - window
  }

  /// Causal or of the same image, within the window, and ever written.
  func mask(of call: Call, masked: Float) -> Tensor {
    let held = held(after: call)
    let seen = (0..<call.length).flatMap { query in
      held.map { position in sees(query, position, call) ? 0 : masked }
    }
    return Tensor([1, 1, call.length, slots], seen)
  }

  private func sees(_ query: Int, _ position: Int, _ call: Call) -> Bool {
    let distance = call.start + query - position
    guard position >= 0, distance < window ?? .max else { return false }
    return distance >= 0 || imageBlocks && sharesImage(query, position - call.start, call)
  }

  /// An image lies within one call, so only positions of this call can share one.
  private func sharesImage(_ query: Int, _ other: Int, _ call: Call) -> Bool {
    guard query < call.count, call.blocks.indices.contains(other), let image = call.blocks[query] else { return false }
    return call.blocks[other] == image
  }

  /// Cosines and sines, in Float as the reference computes them.
  func rotation(of call: Call) -> (cos: Tensor, sin: Tensor) {
    let frequencies = inverseFrequencies + inverseFrequencies
    let turns = (call.start..<call.start + call.length).flatMap { position in frequencies.map { Float(position) * $0 } }
    let shape = [1, 1, call.length, headDim]
    return (Tensor(shape, turns.map { Foundation.cos($0) }), Tensor(shape, turns.map { Foundation.sin($0) }))
  }

  /// Which position of the call goes to which slot of a ring, and which slots keep what they have.
  func placement(of call: Call) -> [String: Tensor] {
    guard let write, let keep, call.length > 1 else { return [:] }
    var placed = Tensor([1, 1, slots, call.length], repeating: 0)
    var kept = Tensor([1, 1, slots, 1], repeating: 1)
    for index in 0..<call.count {
      let slot = (call.start + index) % slots
      placed.values[slot * call.length + index] = 1
      kept.values[slot] = 0
    }
    return [write: placed, keep: kept]
  }
}

/// Never negative.
private func modulo(_ value: Int, _ divisor: Int) -> Int {
  let remainder = value % divisor
  return remainder < 0 ? remainder + divisor : remainder
}
