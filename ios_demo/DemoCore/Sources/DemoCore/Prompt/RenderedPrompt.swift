/// A prompt's text, and its media in the order of their placeholders there.
struct RenderedPrompt: Sendable {
  var text = ""
  var images: [ImagePatches] = []
  var clips: [AudioFrames] = []

  init() {}

  /// - Throws: `UserError`, see `PromptBuilder.render`.
  init(_ messages: [Message], by prompt: PromptBuilder) throws {
    text = try prompt.render(messages)
    images = messages.flatMap(\.images)
    clips = messages.flatMap(\.clips)
  }

  var mediaCount: Int { images.count + clips.count }

  /// Whether it begins with so many bytes of another, and with all its media.
  func starts(with other: RenderedPrompt, upTo bytes: Int) -> Bool {
    text.utf8.starts(with: other.text.utf8.prefix(bytes))
      && images.starts(with: other.images) && clips.starts(with: other.clips)
  }

  /// What follows so many bytes and the media of another, with which it begins.
  func behind(_ bytes: Int, mediaOf other: RenderedPrompt) -> RenderedPrompt {
    var rest = self
    rest.text = String(decoding: text.utf8.dropFirst(bytes), as: UTF8.self)
    rest.images.removeFirst(other.images.count)
    rest.clips.removeFirst(other.clips.count)
    return rest
  }
}
