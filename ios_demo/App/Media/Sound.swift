import AVFoundation
import DemoCore

/// Sound as the model takes it: one channel at 16 kHz.
enum Sound {
  private static let format: [String: any Sendable] = [
    AVFormatIDKey: kAudioFormatLinearPCM, AVSampleRateKey: AudioProcessor.rate, AVNumberOfChannelsKey: 1,
    AVLinearPCMBitDepthKey: 32, AVLinearPCMIsFloatKey: true, AVLinearPCMIsBigEndianKey: false,
    AVLinearPCMIsNonInterleaved: false,
  ]

  /// Of a file, converted by the system.
  ///
  /// - Parameter longest: seconds.
  /// - Throws: `UserError` if it is no sound or longer than that.
  static func samples(of file: URL, longest: Double) async throws -> [Float] {
    let asset = AVURLAsset(url: file)
    guard let track = try? await asset.loadTracks(withMediaType: .audio).first else {
      throw UserError("\(file.lastPathComponent) is no readable sound file: use WAV, M4A or MP3")
    }
    guard try await asset.load(.duration).seconds <= longest else {
      throw UserError("\(file.lastPathComponent) has more than \(Int(longest)) seconds, the most that is heard: cut it")
    }
    let reader = try AVAssetReader(asset: asset)
    let output = AVAssetReaderTrackOutput(track: track, outputSettings: format)
    reader.add(output)
    guard reader.startReading() else { throw reader.error ?? UserError("\(file.lastPathComponent) cannot be read") }
    var bytes = Data()
    while let buffer = output.copyNextSampleBuffer() {
      bytes += try buffer.dataBuffer?.dataBytes() ?? Data()
    }
    return bytes.withUnsafeBytes { Array($0.bindMemory(to: Float.self)) }
  }
}
