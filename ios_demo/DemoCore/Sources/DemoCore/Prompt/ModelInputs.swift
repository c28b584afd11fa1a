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
