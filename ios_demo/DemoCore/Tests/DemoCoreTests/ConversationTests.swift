import Foundation
import Testing

@testable import DemoCore

/// An engine that says one token over and over, and fails where it is told to.
private actor Parrot: Engine {
  nonisolated let name = "parrot"
  nonisolated let context = 64
  private(set) var position = 0
  private(set) var resets = 0
  /// Of the calls from now on, which one fails, and how.
  private var failure: (call: Int, error: any Error)?

  func fail(_ call: Int, with error: any Error) {
    failure = (call, error)
  }

  func reset() {
    position = 0
    resets += 1
  }

  func rewind(to position: Int) -> Bool { false }

  func prefill(_ inputs: ModelInputs) throws -> [Float] {
    if let (call, error) = failure {
      failure = call > 0 ? (call - 1, error) : nil
      if call == 0 { throw error }
    }
    position += inputs.tokens.count
    return [0, 1]
  }
}

/// Each word is the token 1.
private struct Words: TextTokenizer {
  func encode(_ text: String) -> [Int] { text.split(separator: " ").map { _ in 1 } }
  func token(_ id: Int) -> String { "▁word" }
  func isSpecial(_ id: Int) -> Bool { false }
}

@Suite struct ConversationTests {
  private let engine = Parrot()
  private let conversation: Conversation
  private let first = Message(.user, "first")

  init() {
    let tokens = Tokens(
      bos: 0, eos: [0], pad: 0, suppress: [], image: nil, audio: nil, video: nil, beginImage: nil, endImage: nil,
      beginAudio: nil, endAudio: nil)
    let greedy = Sampling(doSample: false, temperature: 1, topK: 0, topP: 1)
    conversation = Conversation(engine: engine, tokenizer: Words(), tokens: tokens, sampling: greedy)
  }

  private func say(_ message: Message) async throws {
    let prompt = PromptBuilder(PromptTests.topic.dialogue)
    for try await _ in conversation.say(message, prompt: prompt, limit: 3).events {}
  }

  /// What the conversation holds is the first turn, which "try again" is about.
  private func requireFirstTurnAlone() async throws {
    #expect(await conversation.messages.map(\.role) == [.user, .model])
    #expect(await conversation.takeBack() == first)
    #expect(await conversation.messages.isEmpty)
  }

  @Test func aRefusedQuestionIsNoPartOfIt() async throws {
    try await say(first)
    let long = String(repeating: "word ", count: 64)
    await #expect(throws: UserError.self) { try await say(Message(.user, long)) }
    try await requireFirstTurnAlone()
  }

  @Test(arguments: ["<|image|>", "<|video|>"])
  func aTypedPlaceholderIsRefused(_ placeholder: String) async throws {
    try await say(first)
    await #expect(throws: UserError.self) { try await say(Message(.user, "look: \(placeholder)")) }
    try await requireFirstTurnAlone()
  }

  @Test func aQuestionThatIsStoppedBeforeItsAnswerIsNoPartOfIt() async throws {
    try await say(first)
    await engine.fail(0, with: CancellationError())
    await #expect(throws: CancellationError.self) { try await say(Message(.user, "second")) }
    try await requireFirstTurnAlone()
  }

  @Test func aQuestionWhoseAnswerFailsIsNoPartOfIt() async throws {
    try await say(first)
    await engine.fail(1, with: UserError("the engine gave up"))
    await #expect(throws: UserError.self) { try await say(Message(.user, "second")) }
    try await requireFirstTurnAlone()
  }

  @Test func anAnswerThatIsStoppedStaysAsFarAsItCame() async throws {
    await engine.fail(1, with: CancellationError())
    try await say(first)
    #expect(await conversation.messages.last?.parts == [.text("\u{20}word")])
    try await requireFirstTurnAlone()
  }
}
