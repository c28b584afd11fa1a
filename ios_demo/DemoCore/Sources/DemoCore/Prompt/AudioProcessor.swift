/// Sound to frames, as the checkpoint's processor cuts it (`docs/inputs.md`).
public struct AudioProcessor: Sendable {
  /// Hz that samples must have.
  public static let rate = 16000
  /// Samples of a frame: 40 ms.
  static let frame = 640
  /// Soft tokens of a clip, at most.
  public let budget: Int

  public init(budget: Int) {
    self.budget = budget
  }

  /// Seconds.
  public var longest: Double { Double(budget * Self.frame) / Double(Self.rate) }

  /// - Parameter samples: one channel at `rate`, -1 to 1. The last frame is filled up with zeros.
  /// - Throws: `UserError` if there are none, or too many.
  public func callAsFunction(_ samples: [Float]) throws -> AudioFrames {
    let count = (samples.count + Self.frame - 1) / Self.frame
    guard count > 0 else { throw UserError("nothing was recorded: try again") }
    guard count <= budget else {
      throw UserError(
        "the clip is longer than \(Int(longest)) seconds, the most that is heard: cut it")
    }
    let silence = Array(repeating: Float(0), count: count * Self.frame - samples.count)
    return AudioFrames(frames: Tensor([count, Self.frame], samples + silence))
  }
}
