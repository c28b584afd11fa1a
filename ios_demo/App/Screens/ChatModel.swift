import DemoCore
import Foundation
import Observation

/// A conversation on the screen.
@MainActor @Observable
final class ChatModel {
  /// A question or an answer.
  struct Entry: Identifiable {
    let id = UUID()
    let role: Message.Role
    var reply = Reply()
    var attachments: [Attachment] = []
    /// What an answer took, once it is there.
    var turn: Turn?
  }

  private(set) var entries: [Entry] = []
  private(set) var isAnswering = false
  var text = ""
  var attachments: [Attachment] = []
  var thinks = false
  var samples = true
  /// For an alert.
  var trouble: String?

  private let loaded: AppModel.Loaded
  private var conversation: Conversation
  private var task: Task<Void, Never>?

  init(_ loaded: AppModel.Loaded) {
    self.loaded = loaded
    conversation = Self.conversation(loaded, samples: true)
  }

  private static func conversation(_ loaded: AppModel.Loaded, samples: Bool) -> Conversation {
    let manifest = loaded.bundle.manifest
    var sampling = manifest.sampling
    if !samples { sampling.doSample = false }
    return Conversation(
      engine: loaded.engine, tokenizer: loaded.tokenizer, tokens: manifest.tokens, sampling: sampling)
  }

  var canSend: Bool {
    !isAnswering && (!attachments.isEmpty || !text.trimmingCharacters(in: .whitespacesAndNewlines).isEmpty)
  }

  func send() {
    let message = Message(text, images: attachments.compactMap(\.image), clips: attachments.compactMap(\.clip))
    entries.append(Entry(role: .user, reply: Reply([Piece(.text, text)]), attachments: attachments))
    text = ""
    attachments = []
    answer(message)
  }

  /// The last question again.
  func retry() {
    Task {
      guard !isAnswering, let message = await conversation.takeBack() else { return }
      if entries.last?.role == .model { entries.removeLast() }
      answer(message)
    }
  }

  /// The answer stays as far as it came.
  func stop() {
    task?.cancel()
  }

  func begin() {
    stop()
    entries = []
    conversation = Self.conversation(loaded, samples: samples)
  }

  // MARK: Media

  func attachPicture(_ data: Data) throws {
    guard let budget = loaded.bundle.manifest.limits.imageSoftTokens else {
      throw UserError("this model takes no pictures")
    }
    attachments.append(.picture(try ImageProcessor(budget: budget)(RGBImage(data: data)), data))
  }

  func attachSound(_ file: URL) async throws {
    let samples = try await Sound.samples(of: file, longest: try longestClip())
    let budget = loaded.bundle.manifest.limits.audioSoftTokens ?? 0
    attachments.append(.sound(try AudioProcessor(budget: budget)(samples)))
  }

  /// Seconds.
  func longestClip() throws -> TimeInterval {
    guard let budget = loaded.bundle.manifest.limits.audioSoftTokens else {
      throw UserError("this model hears nothing")
    }
    return AudioProcessor(budget: budget).longest
  }

  // MARK: Answering

  private func answer(_ message: Message) {
    guard let dialogue = loaded.bundle.manifest.dialogue else {
      trouble = "the bundle does not say how prompts are written: export it again"
      return
    }
    let stream = conversation.say(message, prompt: PromptBuilder(dialogue, think: thinks))
    entries.append(Entry(role: .model))
    isAnswering = true
    task = Task {
      defer { isAnswering = false }
      do {
        try await Witness.during("answering") { try await self.show(stream) }
      } catch is CancellationError {
        return
      } catch {
        trouble = error.localizedDescription
      }
    }
  }

  private func show(_ stream: AsyncThrowingStream<Conversation.Event, any Error>) async throws {
    for try await event in stream {
      guard let last = entries.indices.last else { return }
      switch event {
      case .piece(let piece): entries[last].reply.pieces.append(piece)
      case .ended(let turn): entries[last].turn = turn
      }
    }
  }
}
