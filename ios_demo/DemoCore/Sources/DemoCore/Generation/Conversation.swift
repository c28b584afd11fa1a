import Foundation

/// Several turns over one engine: the cache is kept, and only what a new turn adds is prefilled.
///
/// A prompt may write turns that are over in another way than they were read. Then the cache is taken back to
/// where both agree. `runtime/conversation.py` in Swift.
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

  /// What the engine's cache holds, as text and as tokens; and tokens that are chosen but not in there yet.
  private struct Memory {
    /// With answers, and what waits.
    var prompt = RenderedPrompt()
    var tokens: [Int] = []
    var waiting: [Int] = []
    /// Where the last medium ends, in bytes of the text and in tokens.
    var behindMedia = (bytes: 0, tokens: 0)
    /// Of the engine, by which it is seen whether its cache is still this conversation's.
    var resets = 0
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
    if await engine.resets != memory.resets { memory = Memory() }  // a benchmark may have used it since
    let rendered = try RenderedPrompt(messages, by: prompt)
    let (inputs, position) = try await prepare(rendered, prompt)
    var heard = position > 0 ? memory : Memory()
    memory = Memory()  // until the answer is through, nobody knows what the cache holds
    let logits = try await engine.prefill(inputs)
    let hasMoreMedia = rendered.mediaCount > heard.prompt.mediaCount
    heard.tokens = heard.tokens.prefix(position) + inputs.tokens
    heard.prompt = rendered
    heard.resets = await engine.resets
    if hasMoreMedia { heard.behindMedia = endOfMedia(in: heard, prompt) }
    return (logits, heard, inputs.tokens.count)
  }

  /// Takes the cache to where it agrees with a prompt, or to the start.
  ///
  /// - Returns: what it lacks, and the position where that begins.
  private func prepare(_ rendered: RenderedPrompt, _ prompt: PromptBuilder) async throws -> (ModelInputs, Int) {
    let (rest, position) = try unheard(rendered, prompt)
    try requireRoom(rest.tokens.count, behind: position)
    if await goBack(to: position) { return (rest, position) }
    let whole = position > 0 ? try read(rendered, prompt) : rest
    try requireRoom(whole.tokens.count, behind: 0)
    try await engine.reset()
    return (whole, 0)
  }

  private func goBack(to position: Int) async -> Bool {
    guard position > 0 else { return false }
    if await engine.position == position { return true }
    return await engine.rewind(to: position)
  }

  /// What the cache lacks, and the position where that begins.
  private func unheard(_ rendered: RenderedPrompt, _ prompt: PromptBuilder) throws -> (ModelInputs, Int) {
    let (held, end) = (memory.prompt, memory.behindMedia)
    let bytes = held.text.utf8.count
    if rendered.starts(with: held, upTo: bytes) {
      var rest = try read(rendered.behind(bytes, mediaOf: held), prompt)
      rest.tokens = memory.waiting + rest.tokens
      return (rest, memory.tokens.count)
    }
    guard rendered.starts(with: held, upTo: end.bytes) else { return (try read(rendered, prompt), 0) }
    var rest = try read(rendered.behind(end.bytes, mediaOf: held), prompt)
    let same = zip(rest.tokens.dropLast(), memory.tokens[end.tokens...]).prefix { $0 == $1 }.count
    rest.tokens.removeFirst(same)
    return (rest, end.tokens + same)
  }

  /// With its media written out, as tokens.
  private func read(_ rendered: RenderedPrompt, _ prompt: PromptBuilder) throws -> ModelInputs {
    let counts = ["image": rendered.images.map(\.count), "audio": rendered.clips.map(\.count)]
    let written = try prompt.expand(rendered.text, soft: counts)
    return ModelInputs(tokens: tokenizer.encode(written), images: rendered.images, clips: rendered.clips)
  }

  /// The text behind it must be the last tokens: else all counts as media, and nothing is compared.
  private func endOfMedia(in heard: Memory, _ prompt: PromptBuilder) -> (bytes: Int, tokens: Int) {
    let (text, tokens) = (heard.prompt.text, heard.tokens)
    let end = prompt.endOfMedia(in: text)
    let tail = tokenizer.encode(String(decoding: text.utf8.dropFirst(end), as: UTF8.self))
    guard tokens.suffix(tail.count).elementsEqual(tail) else { return (text.utf8.count, tokens.count) }
    return (end, tokens.count - tail.count)
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
    memory.prompt.text += tokenizer.decode(turn.tokens)
    memory.tokens += turn.tokens.dropLast()
    memory.waiting = turn.tokens.suffix(1)
  }
}
