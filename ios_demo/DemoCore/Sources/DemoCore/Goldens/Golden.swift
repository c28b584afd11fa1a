import Foundation

/// A prompt with what the quantized reference makes of it, so that a phone can repeat the check.
public struct Golden: Sendable {
  /// The part that is JSON; messages and rendered text are for people.
  private struct Facts: Decodable {
    let tokens: [Int]
    let gaps: [Double]
  }

  public let name: String
  public let modality: GoldenEntry.Modality
  public let inputs: ModelInputs
  /// Greedy, `[steps]`.
  public let tokens: [Int]
  /// `[steps]`: the largest logit less the second largest.
  public let gaps: [Double]
  /// `[steps, k]`, largest first: step 0 follows the prompt, step i the token i - 1.
  public let topIds: [[Int]]
  public let topLogits: [[Double]]

  /// That a replay takes: the last token is not fed.
  public var positions: Int { inputs.tokens.count + tokens.count - 1 }

  /// - Throws: `UserError` if a file is missing or damaged.
  public init(_ entry: GoldenEntry, bundle: URL) throws {
    let path = bundle.appending(path: entry.file)
    guard let facts = try? JSONDecoder().decode(Facts.self, from: Data(contentsOf: path)) else {
      throw UserError("\(entry.file) is missing or damaged: export the bundle again")
    }
    let arrays = try Safetensors(bundle.appending(path: entry.tensors))
    name = entry.name
    modality = entry.modality
    (tokens, gaps) = (facts.tokens, facts.gaps)
    inputs = try ModelInputs(arrays)
    topIds = try arrays.tensor("top_ids").asRows.map { $0.map { Int($0) } }
    topLogits = try arrays.tensor("top_logits").asRows.map { $0.map(Double.init) }
    guard [gaps.count, topIds.count, topLogits.count].allSatisfy({ $0 == tokens.count }) else {
      throw UserError("\(entry.file) and its arrays do not fit: export the bundle again")
    }
  }
}

extension ModelInputs {
  /// From arrays named as the checkpoint's processor does, padding left out.
  init(_ arrays: Safetensors) throws {
    self.init(tokens: try arrays.tensor("input_ids").values.map { Int($0) })
    if arrays.contains("pixel_values") {
      let (pixels, cells) = (try arrays.tensor("pixel_values"), try arrays.tensor("image_position_ids"))
      images = zip(pixels.slices, cells.slices).map { patches, cells in
        let kept = cells.asRows.indices.filter { cells.asRows[$0][0] >= 0 }
        return ImagePatches(patches: patches.keeping(kept), cells: cells.keeping(kept))
      }
    }
    if arrays.contains("input_features") {
      let (frames, mask) = (try arrays.tensor("input_features"), try arrays.tensor("input_features_mask"))
      clips = zip(frames.slices, mask.asRows).map { frames, mask in
        AudioFrames(frames: frames.keeping(mask.indices.filter { mask[$0] != 0 }))
      }
    }
  }
}

extension Tensor {
  /// Along the last axis.
  var asRows: [[Float]] {
    (0..<values.count / max(rowLength, 1)).map { Array(rows($0..<$0 + 1)) }
  }

  /// Along the first axis.
  var slices: [Tensor] {
    let inner = Array(shape.dropFirst())
    let size = inner.reduce(1, *)
    return (0..<shape[0]).map { Tensor(inner, Array(values[$0 * size..<($0 + 1) * size])) }
  }

  /// Some rows of a matrix.
  func keeping(_ kept: [Int]) -> Tensor {
    Tensor([kept.count, rowLength], kept.flatMap { rows($0..<$0 + 1) })
  }
}
