import Foundation
import Testing

@testable import DemoCore

/// Prompts from the manifest's pieces of text, against what transformers makes of the chat template.
@Suite struct PromptTests {
  struct Topic: Decodable {
    struct Talk: Decodable, CustomTestStringConvertible {
      let name: String
      let messages: [WrittenMessage]
      let tools: [JSONValue]
      let think: Bool
      let prompt: String
      var testDescription: String { name }
    }

    struct Media: Decodable, CustomTestStringConvertible {
      let kind: String
      let sizes: [JSONValue]
      let softTokens: [Int]
      let prompt: String
      let ids: [Int]
      var testDescription: String { "\(kind) \(sizes)" }
    }

    let dialogue: Dialogue
    let tokens: Tokens
    let conversations: [Talk]
    let media: [Media]
  }

  static let topic: Topic = Vectors.read("prompts")

  @Test(arguments: topic.conversations)
  func promptsAreTheTemplates(_ talk: Topic.Talk) throws {
    let prompt = PromptBuilder(Self.topic.dialogue, tools: talk.tools.map(\.function), think: talk.think)
    #expect(try prompt.render(talk.messages.map(\.message)) == talk.prompt)
  }

  @Test(arguments: topic.media)
  func mediaTakeAsManyTokens(_ media: Topic.Media) throws {
    let counts = try media.sizes.map { size in try count(media.kind, size) }
    #expect(counts == media.softTokens)
    let written = try PromptBuilder(Self.topic.dialogue).expand(media.prompt, soft: [media.kind: counts])
    #expect(tokens(of: written) == media.ids.map { Vectors.tokenizer.tokens[$0] ?? "" }.filter(isMark))
  }

  private func count(_ kind: String, _ size: JSONValue) throws -> Int {
    switch size {
    case .number(let samples):
      return try AudioProcessor(budget: 750)(Array(repeating: 0, count: Int(samples))).count
    case .array(let sides):
      let sides = sides.compactMap { if case .number(let side) = $0 { Int(side) } else { nil } }
      let pixels = Array(repeating: UInt8(0), count: sides[0] * sides[1] * 3)
      return try ImageProcessor(budget: 70)(RGBImage(width: sides[0], height: sides[1], pixels: pixels)).count
    default: throw UserError("no size of \(kind)")
    }
  }

  /// Those that are no text, in order.
  private func tokens(of text: String) -> [String] {
    text.matches(of: /<[^<>]*>/).map { String($0.output) }.filter(isMark)
  }

  private func isMark(_ token: String) -> Bool {
    Vectors.tokenizer.special.contains { Vectors.tokenizer.tokens[$0] == token }
  }

  @Test func marksOfMediaInATextAreRefused() {
    let prompt = PromptBuilder(Self.topic.dialogue)
    #expect(throws: UserError.self) { try prompt.expand("a<|image|>b", soft: ["image": []]) }
    for placeholder in Self.topic.dialogue.media.values.map(\.placeholder) {
      #expect(throws: UserError.self) { try prompt.expand("a\(placeholder)b", soft: [:]) }
    }
  }

  @Test func controlAThoughtIsLeftOut() throws {
    let (user, model) = (Message(.user, "Hi"), Message(.model, "<|channel>Hm.<channel|>Hello."))
    let text = try PromptBuilder(Self.topic.dialogue).render([user, model, user])
    #expect(text.contains("Hello.") && !text.contains("Hm."))
  }
}

/// A message as chat templates know it.
struct WrittenMessage: Decodable {
  struct Call: Decodable {
    struct Function: Decodable {
      let name: String
      let arguments: JSONValue
    }

    let function: Function
  }

  let role: String
  let content: JSONValue?
  let name: String?
  let toolCalls: [Call]?

  var message: Message {
    let roles: [String: Message.Role] = ["assistant": .model, "developer": .system]
    var message = Message(roles[role] ?? Message.Role(rawValue: role) ?? .user, role == "tool" ? [] : parts)
    message.calls = (toolCalls ?? []).map {
      Message.Call(name: $0.function.name, arguments: $0.function.arguments.given)
    }
    if role == "tool" { message.response = .init(name: name ?? "unknown", value: content ?? .null) }
    return message
  }

  private var parts: [Message.Part] {
    switch content {
    case .string(let text): [.text(text)]
    case .array(let items): items.map(\.part)
    default: []
    }
  }
}

extension JSONValue {
  fileprivate subscript(_ key: String) -> JSONValue? {
    if case .object(let fields) = self { fields[key] } else { nil }
  }

  fileprivate var text: String {
    if case .string(let text) = self { text } else { "" }
  }

  fileprivate var function: PromptBuilder.Tool {
    if case .object(let fields)? = self["function"] { fields } else { [:] }
  }

  fileprivate var part: Message.Part {
    let kind = self["type"]?.text ?? ""
    return kind == "text" ? .text(self["text"]?.text ?? "") : .medium(kind)
  }

  fileprivate var given: Message.Arguments {
    if case .object(let values) = self { .values(values) } else { .written(text) }
  }
}
