import Foundation

/// A prompt's text from the pieces in a manifest's `Dialogue`, as the checkpoint's chat template gives it.
/// `runtime/dialogue.py` in Swift.
public struct PromptBuilder: Sendable {
  /// What a turn ends with.
  private enum Ending {
    case turn, call, response
  }

  /// A function that the model may call, as JSON Schema has it.
  public typealias Tool = [String: JSONValue]

  public let dialogue: Dialogue
  private let tools: [Tool]
  private let think: Bool

  public init(_ dialogue: Dialogue, tools: [Tool] = [], think: Bool = false) {
    self.dialogue = dialogue
    self.tools = tools
    self.think = think
  }

  /// Messages up to where the model's turn begins, with one placeholder for each medium.
  ///
  /// - Throws: `UserError` for tools, calls or media that the dialogue does not describe.
  public func render(_ messages: [Message]) throws -> String {
    let system = messages.first?.role == .system ? messages.first : nil
    var text = dialogue.begin
    if system != nil || !tools.isEmpty || think { text += try systemTurn(system) }
    var last = Ending.turn
    for message in system == nil ? messages[...] : messages.dropFirst() {
      let (written, ending) = try turn(message, after: last)
      text += written
      last = ending
    }
    guard last == .turn else { return text }
    return text + (think ? dialogue.generationThinking : dialogue.generation)
  }

  private func systemTurn(_ message: Message?) throws -> String {
    let marks = try self.marks(of: .system)
    let said = try message.map(content) ?? ""
    let declared = try tools.map(declaration).joined()
    return marks.begin + (think ? dialogue.thinking : "") + said + declared + marks.end
  }

  /// The model goes on behind a response.
  private func turn(_ message: Message, after last: Ending) throws -> (String, Ending) {
    if message.role == .tool { return (try response(message, opened: last == .call), .response) }
    let marks = try self.marks(of: message.role)
    let goesOn = message.role == .model && last == .response
    let said = (goesOn ? "" : marks.begin) + (try content(message))
    guard !message.calls.isEmpty else { return (said + marks.end, .turn) }
    let tools = try toolMarks()
    return (said + message.calls.map { tools.written($0) }.joined() + tools.opened, .call)
  }

  private func marks(of role: Message.Role) throws -> Marks {
    guard let marks = dialogue.turns[role.rawValue] else {
      throw UserError("the bundle's prompts have no turn of \(role.rawValue)")
    }
    return marks
  }

  /// Parts in their order, nothing between them.
  private func content(_ message: Message) throws -> String {
    try message.parts.map { part in
      switch part {
      case .text(let text): strip(text, role: message.role)
      case .medium(let kind): try medium(kind).placeholder
      }
    }.joined()
  }

  private func strip(_ text: String, role: Message.Role) -> String {
    if role == .model, let marks = dialogue.thought { return withoutThoughts(text, marks) }
    return dialogue.trimmed ? text.trimmingCharacters(in: .whitespacesAndNewlines) : text
  }

  // MARK: Tools

  private func toolMarks() throws -> ToolMarks {
    guard let tools = dialogue.tools else { throw UserError("the bundle does not describe how tools are called") }
    return tools
  }

  private func declaration(_ tool: Tool) throws -> String {
    let marks = try toolMarks()
    guard case .string(let name)? = tool["name"] else { throw UserError("a tool has no name") }
    let told = ["description": tool["description"] ?? "", "parameters": tool["parameters"] ?? [:]]
    return "\(marks.declaration.begin)\(name){\(marks.pairs(told))}\(marks.declaration.end)"
  }

  private func response(_ message: Message, opened: Bool) throws -> String {
    let marks = try toolMarks()
    let response = message.response ?? Message.Response(name: "unknown", value: "")
    let hidden = opened && marks.response.begin.hasPrefix(marks.opened) ? marks.opened.count : 0
    let body = if case .object(let values) = response.value { values } else { ["value": response.value] }
    let begin = marks.response.begin.dropFirst(hidden)
    return "\(begin)\(response.name){\(marks.pairs(body))}\(marks.response.end)"
  }

  // MARK: Media

  /// Where the last placeholder ends in a rendered prompt, in bytes.
  func endOfMedia(in text: String) -> Int {
    let ends = dialogue.media.values.compactMap {
      text.range(of: $0.placeholder, options: [.backwards, .literal])?.upperBound
    }
    return ends.max().map { text.utf8.distance(from: text.startIndex, to: $0) } ?? 0
  }

  private func medium(_ kind: String) throws -> Medium {
    guard let medium = dialogue.media[kind] else { throw UserError("this model takes no \(kind)") }
    return medium
  }

  /// A rendered prompt with its media written out; the tokenizer makes its tokens of that.
  ///
  /// - Parameter soft: by kind, the soft tokens of each medium in the order of their placeholders. Of kinds that are not
  ///   among them there are none: a placeholder that somebody typed would be a token without a medium.
  /// - Throws: `UserError` if there are more or fewer placeholders than media.
  public func expand(_ text: String, soft: [String: [Int]]) throws -> String {
    try dialogue.media.sorted { $0.key < $1.key }.reduce(text) { text, entry in
      let (medium, counts) = (entry.value, soft[entry.key] ?? [])
      let pieces = text.components(separatedBy: medium.placeholder)
      guard pieces.count == counts.count + 1 else {
        throw UserError("leave marks such as \(medium.placeholder) out of what is said")
      }
      return pieces[0] + zip(counts, pieces.dropFirst()).map { medium.written($0) + $1 }.joined()
    }
  }
}

/// What is left of a turn of the model's; a thought without an end hides all that follows.
private func withoutThoughts(_ text: String, _ marks: Marks) -> String {
  text.components(separatedBy: marks.end).map { $0.components(separatedBy: marks.begin)[0] }.joined()
    .trimmingCharacters(in: .whitespacesAndNewlines)
}

extension Medium {
  fileprivate func written(_ count: Int) -> String {
    begin + String(repeating: soft, count: count) + end
  }
}

extension ToolMarks {
  fileprivate func written(_ made: Message.Call) -> String {
    let arguments =
      switch made.arguments {
      case .written(let text): text
      case .values(let values): pairs(values)
      }
    return "\(call.begin)\(made.name){\(arguments)}\(call.end)"
  }

  /// `key:value` between commas, sorted by key without regard to case.
  fileprivate func pairs(_ values: [String: JSONValue]) -> String {
    values.sorted { ($0.key.lowercased(), $0.key) < ($1.key.lowercased(), $1.key) }
      .map { "\($0.key):\(written($0.value))" }.joined(separator: ",")
  }

  private func written(_ value: JSONValue) -> String {
    switch value {
    case .null: "None"
    case .bool(let flag): flag ? "true" : "false"
    case .number(let number): Int(exactly: number).map(String.init) ?? "\(number)"
    case .string(let text): quote + text + quote
    case .array(let items): "[\(items.map(written).joined(separator: ","))]"
    case .object(let fields): "{\(pairs(fields))}"
    }
  }
}
