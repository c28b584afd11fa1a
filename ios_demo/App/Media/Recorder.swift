import AVFoundation
import DemoCore
import Observation

/// Records a clip from the microphone into a temporary file.
@MainActor @Observable
final class Recorder {
  private(set) var isRecording = false
  private var recorder: AVAudioRecorder?
  private let file = FileManager.default.temporaryDirectory.appending(path: "clip.wav")

  /// - Parameter longest: seconds, after which it stops by itself.
  /// - Throws: `UserError` if the microphone may not be used.
  func start(longest: TimeInterval) async throws {
    guard await AVAudioApplication.requestRecordPermission() else {
      throw UserError("the microphone may not be used: allow it in Settings")
    }
    let session = AVAudioSession.sharedInstance()
    try session.setCategory(.record, mode: .measurement)
    try session.setActive(true)
    let settings: [String: Any] = [
      AVFormatIDKey: kAudioFormatLinearPCM, AVSampleRateKey: AudioProcessor.rate, AVNumberOfChannelsKey: 1,
      AVLinearPCMBitDepthKey: 16,
    ]
    let recorder = try AVAudioRecorder(url: file, settings: settings)
    recorder.record(forDuration: longest)
    self.recorder = recorder
    isRecording = true
  }

  /// - Returns: the file, which the next clip overwrites.
  func stop() throws -> URL {
    recorder?.stop()
    recorder = nil
    isRecording = false
    try AVAudioSession.sharedInstance().setActive(false)
    return file
  }
}
