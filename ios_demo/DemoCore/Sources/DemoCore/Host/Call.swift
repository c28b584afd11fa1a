/// One call of all chunks: `count` consecutive positions, padded to the `length` that a function was built for.
///
/// What padding rows compute is thrown away, and what they write lies in slots that no position has reached: full layers
/// overwrite it when one does, rings are never given it.
public struct Call: Sendable, Equatable {
  /// First position.
  public let start: Int
  /// By position, the image that it belongs to; nil outside images.
  public let blocks: [Int?]
  /// Positions that the function takes.
  public let length: Int

  public init(start: Int, blocks: [Int?], length: Int) {
    self.start = start
    self.blocks = blocks
    self.length = length
  }

  public var count: Int { blocks.count }
  public var function: String { length == 1 ? "decode" : "prefill" }
}

/// Cuts positions from `start` on into calls, none of which ends inside an image.
///
/// - Throws: `UserError` if an image is longer than a prefill.
public func planCalls(from start: Int, blocks: [Int?], prefill: Int) throws -> [Call] {
  try steps(inside: blocks.map { $0 != nil }, longest: prefill).map { step in
    Call(start: start + step.lowerBound, blocks: Array(blocks[step]), length: step.count == 1 ? 1 : prefill)
  }
}

/// Cuts a prompt into steps of at most so many positions.
///
/// - Parameter inside: positions of images, which a step holds whole.
/// - Throws: `UserError` if an image is longer than a step.
public func steps(inside: [Bool], longest: Int) throws -> [Range<Int>] {
  var found: [Range<Int>] = []
  var start = 0
  while start < inside.count {
    var stop = min(start + longest, inside.count)
    while stop > start, stop < inside.count, inside[stop], inside[stop - 1] { stop -= 1 }
    guard stop > start else {
      throw UserError(
        "an image takes more than the \(longest) positions of a step: use a smaller one, or export the "
          + "bundle again with larger images")
    }
    found.append(start..<stop)
    start = stop
  }
  return found
}

/// Images counted from 0, each a run of placeholders; nil elsewhere.
func numberBlocks(_ tokens: [Int], placeholder: Int?) -> [Int?] {
  var image = -1
  return tokens.indices.map { index in
    guard tokens[index] == placeholder else { return nil }
    if index == 0 || tokens[index - 1] != placeholder { image += 1 }
    return image
  }
}
