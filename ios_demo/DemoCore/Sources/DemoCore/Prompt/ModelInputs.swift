/// Consecutive positions of one sequence. Media come in the order of their placeholders; an image is never split over
/// two prefills.
public struct ModelInputs: Sendable, Equatable {
  public var tokens: [Int]
  public var images: [ImagePatches]
  public var clips: [AudioFrames]

  public init(tokens: [Int], images: [ImagePatches] = [], clips: [AudioFrames] = []) {
    self.tokens = tokens
    self.images = images
    self.clips = clips
  }
}

/// An image as the model takes it, without padding.
public struct ImagePatches: Sendable, Equatable {
  /// `[n, 6912]`: 48 x 48 pixels row by row with their three colours side by side, 0 to 1.
  public let patches: Tensor
  /// `[n, 2]`: x and y of each patch.
  public let cells: Tensor

  public init(patches: Tensor, cells: Tensor) {
    self.patches = patches
    self.cells = cells
  }

  /// Soft tokens that it takes.
  public var count: Int { patches.shape[0] }

  /// - Throws: `UserError` if it has more soft tokens along a side.
  public func requireSides(upTo longest: Int) throws {
    let side = Int(cells.values.max() ?? -1) + 1
    guard side <= longest else {
      throw UserError("an image of \(side) soft tokens along a side is too long, \(longest) fit: crop it")
    }
  }

  /// The image that the patches were cut from, `[1, 3, height, width]`.
  public var planes: Tensor {
    let side = ImageProcessor.patch
    let columns = Int(cells.asRows.map { $0[0] }.max() ?? -1) + 1
    let (width, height) = (columns * side, count / max(columns, 1) * side)
    var planes = Tensor([1, 3, height, width], repeating: 0)
    for (patch, cell) in zip(patches.asRows, cells.asRows) {
      for (index, value) in patch.enumerated() {
        let (y, x) = (Int(cell[1]) * side + index / (side * 3), Int(cell[0]) * side + index / 3 % side)
        planes.values[(index % 3 * height + y) * width + x] = value
      }
    }
    return planes
  }
}

/// A clip as the model takes it, without padding.
public struct AudioFrames: Sendable, Equatable {
  /// `[n, 640]`, -1 to 1.
  public let frames: Tensor

  public init(frames: Tensor) {
    self.frames = frames
  }

  /// Soft tokens that it takes.
  public var count: Int { frames.shape[0] }
}
