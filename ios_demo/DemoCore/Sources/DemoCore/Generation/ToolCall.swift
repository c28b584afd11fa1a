import Foundation

/// A function that the model wants called.
public struct ToolCall: Sendable, Equatable {
  public let name: String
  public let arguments: [String: JSONValue]

  /// `call:NAME{key:value,...}`; nil where it is not of this form.
  ///
  /// Strings stand between `<|"|>`; keys are bare; numbers, true, false, null, lists and objects are JSON's.
  public init?(_ written: String) {
    guard let match = written.wholeMatch(of: /(?s)\s*call:([^{\s]+)\s*(\{.*\})\s*/), let json = asJSON(String(match.2)),
      let arguments = try? JSONDecoder().decode([String: JSONValue].self, from: Data(json.utf8))
    else { return nil }
    name = String(match.1)
    self.arguments = arguments
  }
}

/// Quoted strings to JSON's, bare keys in quotes; nil where a string has no end, or a comma nothing behind it, which
/// Foundation lets pass.
private func asJSON(_ arguments: String) -> String? {
  let parts = arguments.components(separatedBy: ReplyReader.quote)
  let bare = stride(from: 0, to: parts.count, by: 2).map { parts[$0] }
  guard parts.count % 2 == 1, !bare.contains(where: { $0.contains(/,\s*[}\]]/) }) else { return nil }
  return parts.enumerated().map { index, part in
    index % 2 == 1 ? quoted(part) : part.replacing(/([{,\[])\s*([A-Za-z_][\w.\-]*)\s*:/) { "\($0.1)\"\($0.2)\":" }
  }.joined()
}

private func quoted(_ text: String) -> String {
  let encoded = try? JSONEncoder().encode(text)  // a String always can be
  return String(decoding: encoded ?? Data(), as: UTF8.self)
}
