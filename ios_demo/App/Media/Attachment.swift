import DemoCore
import Foundation

/// What goes with a question, as the model takes it, and as people see it.
enum Attachment: Sendable {
  case picture(ImagePatches, Data)
  case sound(AudioFrames)

  var image: ImagePatches? {
    if case .picture(let patches, _) = self { patches } else { nil }
  }

  var clip: AudioFrames? {
    if case .sound(let frames) = self { frames } else { nil }
  }
}
