import AVFoundation
import DemoCore

/// Sound as the model takes it: one channel at 16 kHz.
enum Sound {
  static let format = AVAudioFormat(
    commonFormat: .pcmFormatFloat32, sampleRate: Double(AudioProcessor.rate), channels: 1, interleaved: false)

  /// Of a file.
  ///
  /// - Parameter longest: seconds.
  /// - Throws: `UserError` if it is no sound or longer than that.
  static func samples(of file: URL, longest: Double) throws -> [Float] {
    guard let audio = try? AVAudioFile(forReading: file), let format,
      let converter = AVAudioConverter(from: audio.processingFormat, to: format)
    else { throw UserError("\(file.lastPathComponent) is no readable sound file: use WAV, M4A or MP3") }
    guard Double(audio.length) <= longest * audio.processingFormat.sampleRate else {
      throw UserError("\(file.lastPathComponent) has more than \(Int(longest)) seconds, the most that is heard: cut it")
    }
    return try convert(try buffer(of: audio), by: converter, to: format)
  }

  private static func buffer(of audio: AVAudioFile) throws -> AVAudioPCMBuffer {
    let count = AVAudioFrameCount(audio.length)
    guard let buffer = AVAudioPCMBuffer(pcmFormat: audio.processingFormat, frameCapacity: count) else {
      throw UserError("the sound is too long for this device's memory")
    }
    try audio.read(into: buffer)
    return buffer
  }

  /// All of a buffer at once.
  private static func convert(
    _ input: AVAudioPCMBuffer, by converter: AVAudioConverter, to format: AVAudioFormat
  ) throws -> [Float] {
    let share = format.sampleRate / input.format.sampleRate
    let capacity = AVAudioFrameCount(Double(input.frameLength) * share) + 1024
    guard let output = AVAudioPCMBuffer(pcmFormat: format, frameCapacity: capacity) else { return [] }
    var given = false
    var failure: NSError?
    converter.convert(to: output, error: &failure) { _, status in
      status.pointee = given ? .endOfStream : .haveData
      defer { given = true }
      return given ? nil : input
    }
    if let failure { throw failure }
    guard let channel = output.floatChannelData?[0] else { return [] }
    return Array(UnsafeBufferPointer(start: channel, count: Int(output.frameLength)))
  }
}
