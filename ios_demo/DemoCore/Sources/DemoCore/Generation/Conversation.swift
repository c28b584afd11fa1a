import Foundation

/// Several turns over one engine: the cache is kept, and only what a new turn adds is prefilled.
/// `runtime/conversation.py` in Swift.
public actor Conversation {
  /// What an answer brings as it comes.
  public enum Event: Sendable {
    case piece(Piece)
    /// The last one.
    case ended(Turn)
  }

  /// An answer as it comes.
  public struct Answer: Sendable {
    public let events: AsyncThrowingStream<Event, any Error>
    fileprivate let task: Task<Void, Never>

    /// It stays as far as it came, and ends soon.
    public func stop() {
      task.cancel()
    }
  }

  /// What the engine's cache holds, as text; and tokens of it that are chosen but not in there yet.
  private struct Memory {
    var text = ""
    var images = 0
    var clips = 0
    /// Of the engine, by which it is seen whether its cache is still this conversation's.
    var resets = 0
    var waiting: [Int] = []
  }

  public private(set) var messages: [Message] = []
  private let engine: any Engine
  private let tokenizer: any TextTokenizer
  private let tokens: Tokens
  private var sampler: Sampler
  private var memory = Memory()

  public init(
    engine: any Engine, tokenizer: any TextTokenizer, tokens: Tokens, sampling: Sampling, system: String = ""
  ) {
    self.engine = engine
    self.tokenizer = tokenizer
    self.tokens = tokens
    sampler = Sampler(sampling, suppressed: tokens.suppress)
    if !system.isEmpty { messages = [Message(.system, system)] }
  }

  /// Adds a message and streams the answer. Whoever stops reading stops the answer as well. Without an answer, be it
  /// that the message was refused, that hearing it was stopped or that the engine failed, `messages` stays as it was.
  ///
  /// - Parameter limit: tokens of the answer.
  public nonisolated func say(
    _ message: Message, prompt: PromptBuilder, limit: Int = 2048
  ) -> Answer {
    let (events, continuation) = AsyncThrowingStream<Event, any Error>.makeStream()
    let task = Task {
      do {
        let turn = try await self.answer(message, prompt, limit) { continuation.yield(.piece($0)) }
        continuation.yield(.ended(turn))
        continuation.finish()
      } catch {
        continuation.finish(throwing: error)
      }
    }
    continuation.onTermination = { _ in task.cancel() }
    return Answer(events: events, task: task)
  }

  /// Takes the last question and its answer back.
  ///
  /// - Returns: the question.
  public func takeBack() -> Message? {
    guard let index = messages.lastIndex(where: { $0.role == .user }) else { return nil }
    defer { messages.removeSubrange(index...) }
    return messages[index]
  }

  private func answer(
    _ message: Message, _ prompt: PromptBuilder, _ limit: Int, tell: (Piece) -> Void
  ) async throws -> Turn {
    let clock = ContinuousClock()
    let begun = clock.now
    var (logits, heard, prefilled) = try await hear(messages + [message], prompt)
    var (turn, reader) = (Turn(prefilled: prefilled), ReplyReader())
    while turn.ending == nil {
      let token = sampler.choose(logits)
      turn.add(token, at: (clock.now - begun).seconds)
      if let piece = reader.add(tokenizer.token(token), special: tokenizer.isSpecial(token)) {
        turn.reply.pieces.append(piece)
        tell(piece)
      }
      turn.ending = await ending(after: token, written: turn.tokens.count, limit: limit)
      guard turn.ending == nil else { break }
      do {
        logits = try await engine.decode(token)
      } catch is CancellationError {
        turn.ending = .user
      }
    }
    remember(turn, behind: heard)
    messages += [message, Message(turn.reply)]
    return turn
  }

  private func ending(after token: Int, written: Int, limit: Int) async -> Turn.Ending? {
    if tokens.eos.contains(token) { return .model }
    if written == limit { return .limit }
    if await engine.position + 1 >= engine.context { return .context }
    return Task.isCancelled ? .user : nil
  }

  // MARK: The cache

  /// Prefills what the cache does not hold yet.
  private func hear(_ messages: [Message], _ prompt: PromptBuilder) async throws -> ([Float], Memory, Int) {
    let text = try prompt.render(messages)
    let (images, clips) = (messages.flatMap(\.images), messages.flatMap(\.clips))
    let known = await goesOn(text) ? memory : Memory()
    let newImages = Array(images.dropFirst(known.images))
    let newClips = Array(clips.dropFirst(known.clips))
    let rest = String(decoding: text.utf8.dropFirst(known.text.utf8.count), as: UTF8.self)
    let counts = ["image": newImages.map(\.count), "audio": newClips.map(\.count)]
    let written = try prompt.expand(rest, soft: counts)
    let inputs = ModelInputs(tokens: known.waiting + tokenizer.encode(written), images: newImages, clips: newClips)
    try await requireRoom(inputs.tokens.count, behind: known.text.isEmpty ? 0 : engine.position)
    if known.text.isEmpty { try await engine.reset() }
    memory = Memory()  // until the answer is through, nobody knows what the cache holds
    let logits = try await engine.prefill(inputs)
    let heard = await Memory(text: text, images: images.count, clips: clips.count, resets: engine.resets)
    return (logits, heard, inputs.tokens.count)
  }

  /// Whether the cache holds the beginning: prompts drop thoughts from turns that are over, and a benchmark may have used
  /// the engine since.
  private func goesOn(_ text: String) async -> Bool {
    let resets = await engine.resets
    return !memory.text.isEmpty && memory.resets == resets && text.utf8.starts(with: memory.text.utf8)
  }

  private func requireRoom(_ count: Int, behind position: Int) throws {
    guard position + count < engine.context else {
      throw UserError(
        "\(position + count) positions leave no room for an answer in the context of \(engine.context): "
          + "say less, or begin a new conversation")
    }
  }

  /// The last token was chosen, but no engine has seen it.
  private func remember(_ turn: Turn, behind heard: Memory) {
    memory = heard
    memory.text += tokenizer.decode(turn.tokens)
    memory.waiting = turn.tokens.suffix(1)
  }
}
