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
  var text = ""
  var attachments: [Attachment] = []
  var thinks = false
  var samples = true
  /// For an alert.
  var trouble: String?

  /// Media on their way in, which a question would leave without.
  private var preparing = 0
  private let loaded: AppModel.Loaded
  private var conversation: Conversation
  private var current: Conversation.Answer?

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

  var isAnswering: Bool { current != nil }

  /// Whether another screen has the engine.
  var mustWait: Bool { loaded.lease.isTaken }

  var canSend: Bool {
    let saysNothing = text.trimmingCharacters(in: .whitespacesAndNewlines).isEmpty
    return !mustWait && preparing == 0 && !(attachments.isEmpty && saysNothing)
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
      guard !mustWait, let message = await conversation.takeBack() else { return }
      if entries.last?.role == .model { entries.removeLast() }
      answer(message)
    }
  }

  /// The answer stays as far as it came.
  func stop() {
    current?.stop()
  }

  func begin() {
    entries = []
    conversation = Self.conversation(loaded, samples: samples)
  }

  // MARK: Media

  func attachPicture(_ data: Data) async throws {
    guard let budget = loaded.bundle.manifest.limits.imageSoftTokens else {
      throw UserError("this model takes no pictures")
    }
    preparing += 1
    defer { preparing -= 1 }
    attachments.append(.picture(try await Picture.patches(of: data, budget: budget), data))
  }

  func attachSound(_ file: URL) async throws {
    preparing += 1
    defer { preparing -= 1 }
    let samples = try await Sound.samples(of: file, longest: try longestClip())
    let budget = loaded.bundle.manifest.limits.audioSoftTokens ?? 0
    attachments.append(.sound(try AudioProcessor(budget: budget)(samples)))
  }

  func detach(_ index: Int) {
    guard attachments.indices.contains(index) else { return }
    attachments.remove(at: index)
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
      return giveBack()
    }
    entries.append(Entry(role: .model))
    Task {
      await loaded.lease.hold {
        let answer = conversation.say(message, prompt: PromptBuilder(dialogue, think: thinks))
        current = answer
        defer { current = nil }
        do {
          try await Witness.during("answering") { try await self.show(answer) }
        } catch {
          if !(error is CancellationError) { trouble = error.localizedDescription }
          giveBack()
        }
      }
    }
  }

  /// The conversation holds no question without an answer: it goes back to where it was written.
  private func giveBack() {
    if entries.last?.role == .model { entries.removeLast() }
    guard let asked = entries.popLast() else { return }
    text = [asked.reply.text, text].filter { !$0.isEmpty }.joined(separator: "\n")
    attachments = asked.attachments + attachments
  }

  private func show(_ answer: Conversation.Answer) async throws {
    for try await event in answer.events {
      guard let last = entries.indices.last else { return }
      switch event {
      case .piece(let piece): entries[last].reply.pieces.append(piece)
      case .ended(let turn): entries[last].turn = turn
      }
    }
  }
}
