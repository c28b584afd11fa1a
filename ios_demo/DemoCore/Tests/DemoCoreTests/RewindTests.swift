import Foundation
import Testing

@testable import DemoCore

/// An engine whose answer follows from all that it holds.
private actor Listener: Engine {
  enum Rewinding {
    case can, cannot
    /// Says so, and keeps everything.
    case pretends
  }

  nonisolated let name = "listener"
  nonisolated let context = 256
  private let rewinding: Rewinding
  private(set) var cache: [Int] = []
  private(set) var resets = 0
  /// Positions that it was asked to go back to.
  private(set) var asked: [Int] = []

  var position: Int { cache.count }

  init(_ rewinding: Rewinding) {
    self.rewinding = rewinding
  }

  func reset() {
    cache = []
    resets += 1
  }

  func rewind(to position: Int) -> Bool {
    asked.append(position)
    if rewinding == .can { cache.removeSubrange(position...) }
    return rewinding != .cannot
  }

  func prefill(_ inputs: ModelInputs) -> [Float] {
    cache += inputs.tokens
    let letter = cache.reduce(0) { ($0 * 31 + $1) % 1009 } % 26
    return (0..<128).map { $0 == 97 + letter ? 1 : 0 }
  }
}

/// A mark between angle brackets is a token, and so is each character elsewhere.
private struct Characters: TextTokenizer {
  private static let marks = [
    "<bos>", "<|turn>", "<turn|>", "<|channel>", "<channel|>", "<|image>", "<|image|>", "<image|>",
  ]

  func encode(_ text: String) -> [Int] {
    text.matches(of: /<[^<>]+>|[^<]/).flatMap { match in
      let piece = String(match.output)
      return Self.marks.firstIndex(of: piece).map { [128 + $0] } ?? piece.unicodeScalars.map { Int($0.value) }
    }
  }

  func token(_ id: Int) -> String {
    id < 128 ? String(UnicodeScalar(UInt8(id))) : Self.marks[id - 128]
  }

  func isSpecial(_ id: Int) -> Bool { id >= 128 }
}

/// A conversation over an engine of its own.
private struct Talk {
  let engine: Listener
  let conversation: Conversation
  private let prompt: PromptBuilder

  /// - Parameter thought: what prompts end in, and no later one has.
  init(_ rewinding: Listener.Rewinding, thought: String) {
    let tokens = Tokens(
      bos: 128, eos: [130], pad: 0, suppress: [], image: nil, audio: nil, video: nil, beginImage: nil, endImage: nil,
      beginAudio: nil, endAudio: nil)
    let greedy = Sampling(doSample: false, temperature: 1, topK: 0, topP: 1)
    engine = Listener(rewinding)
    conversation = Conversation(engine: engine, tokenizer: Characters(), tokens: tokens, sampling: greedy)
    prompt = PromptBuilder(PromptTests.topic.dialogue.ending(in: thought))
  }

  @discardableResult
  func say(_ text: String, _ images: [ImagePatches] = []) async throws -> Turn {
    let message = Message(text, images: images, clips: [])
    for try await event in conversation.say(message, prompt: prompt, limit: 5).events {
      if case .ended(let turn) = event { return turn }
    }
    throw UserError("no answer")
  }
}

extension Dialogue {
  fileprivate func ending(in thought: String) -> Dialogue {
    Dialogue(
      begin: begin, turns: turns, thinking: thinking, generation: generation + thought,
      generationThinking: generationThinking, trimmed: trimmed, thought: self.thought, media: media, order: order,
      tools: tools)
  }
}

/// Prompts that write a turn that is over in another way than it was read, as the published template's do.
@Suite struct RewindTests {
  private static let thought = "<|channel>thought\n<channel|>"
  private let boot = Self.image(0.25)
  private let hat = Self.image(0.75)

  private static func image(_ value: Float) -> ImagePatches {
    ImagePatches(patches: Tensor([4, 3], repeating: value), cells: Tensor([4, 2], repeating: 0))
  }

  private func turns() -> [(text: String, images: [ImagePatches])] {
    [("What?", [boot]), ("And now?", []), ("This?", [hat]), ("Why?", [])]
  }

  @Test func theCacheIsAsIfAllHadBeenReadAgain() async throws {
    let (kept, fresh) = (Talk(.can, thought: Self.thought), Talk(.cannot, thought: Self.thought))
    for (text, images) in turns() {
      let (found, wanted) = (try await kept.say(text, images), try await fresh.say(text, images))
      #expect(found.tokens == wanted.tokens)
      #expect(await kept.engine.cache == fresh.engine.cache)
      #expect(await wanted.prefilled == fresh.engine.position - 4)
      #expect(text == "What?" ? found.prefilled == wanted.prefilled : found.prefilled < wanted.prefilled)
    }
    #expect(await kept.engine.resets == 1)
    #expect(await fresh.engine.resets == 4)
  }

  @Test func itGoesBackToWhereTheThoughtBegan() async throws {
    let talk = Talk(.can, thought: Self.thought)
    var begins: [Int] = []
    for (text, images) in turns() {
      let turn = try await talk.say(text, images)
      let answer = await talk.engine.position - (turn.tokens.count - 1)
      if let last = begins.last { #expect(turn.prefilled == answer - last) }
      begins.append(answer - Characters().encode(Self.thought).count)
    }
    #expect(await talk.engine.asked == Array(begins.dropLast()))
  }

  @Test func controlAnEngineThatKeepsEverythingIsNoticed() async throws {
    let (kept, fresh) = (Talk(.pretends, thought: Self.thought), Talk(.cannot, thought: Self.thought))
    for talk in [kept, fresh] {
      try await talk.say("What?", [boot])
      try await talk.say("And now?")
    }
    #expect(await kept.engine.cache != fresh.engine.cache)
  }

  @Test func controlWithoutAThoughtNothingIsTakenBack() async throws {
    let talk = Talk(.can, thought: "")
    for (text, images) in turns() { try await talk.say(text, images) }
    #expect(await talk.engine.asked.isEmpty)
    #expect(await talk.engine.resets == 1)
  }

  @Test func aRefusedQuestionTakesNothingBack() async throws {
    let talk = Talk(.can, thought: Self.thought)
    try await talk.say("What?", [boot])
    let cache = await talk.engine.cache
    await #expect(throws: UserError.self) { try await talk.say(String(repeating: "long ", count: 60)) }
    #expect(await talk.engine.cache == cache)
    try await talk.say("And now?")
    #expect(await talk.engine.resets == 1)
  }

  @Test func aQuestionAskedAgainIsNotReadAgainUnlessItsImageIsAnother() async throws {
    let talk = Talk(.can, thought: Self.thought)
    let first = try await talk.say("What?", [boot])
    _ = await talk.conversation.takeBack()
    #expect(try await talk.say("What?", [boot]).prefilled == 1)
    _ = await talk.conversation.takeBack()
    #expect(try await talk.say("What?", [hat]).prefilled == first.prefilled)
  }

  @Test func whatSomebodyElseHasResetIsReadAgain() async throws {
    let talk = Talk(.can, thought: Self.thought)
    try await talk.say("What?", [boot])
    await talk.engine.reset()
    let turn = try await talk.say("And now?")
    #expect(await talk.engine.asked.isEmpty)
    #expect(await turn.prefilled == talk.engine.position - 4)
  }
}
