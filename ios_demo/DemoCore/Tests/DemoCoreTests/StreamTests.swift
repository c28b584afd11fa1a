import Foundation
import Testing

@testable import DemoCore

/// Tokens as they come, against `runtime/reply.py`.
@Suite struct StreamTests {
  struct Topic: Decodable {
    struct Stream: Decodable, CustomTestStringConvertible {
      let name: String
      let ids: [Int]
      /// By token, pairs of a kind and a text.
      let pieces: [[[String]]]
      let text: String
      let thought: String
      let calls: [String]
      var testDescription: String { name }
    }

    struct Call: Decodable, CustomTestStringConvertible {
      struct Parsed: Decodable {
        let name: String
        let arguments: [String: JSONValue]
      }

      let written: String
      let parsed: Parsed?
      var testDescription: String { written }
    }

    let tokens: [Stream]
    let calls: [Call]
  }

  static let topic: Topic = Vectors.read("streams")

  @Test(arguments: topic.tokens)
  func piecesComeWhole(_ stream: Topic.Stream) throws {
    var (reader, reply) = (ReplyReader(), Reply())
    for (id, wanted) in zip(stream.ids, stream.pieces) {
      let token = try #require(Vectors.tokenizer.tokens[id])
      let piece = reader.add(token, special: Vectors.tokenizer.special.contains(id))
      #expect((piece.map { [[$0.kind.rawValue, $0.text]] } ?? []) == wanted)
      if let piece { reply.pieces.append(piece) }
    }
    #expect(reply.text == stream.text)
    #expect(reply.thoughts == stream.thought)
    #expect(reply.calls == stream.calls)
  }

  @Test(arguments: topic.calls)
  func callsAreParsed(_ call: Topic.Call) {
    let found = ToolCall(call.written)
    #expect(found?.name == call.parsed?.name)
    #expect(found?.arguments == call.parsed?.arguments)
  }

  @Test(arguments: ["鯨 🐋", "👩‍👩‍👧 ok", "naïve — é"])
  func anyCutOfBytesComesWhole(_ text: String) {
    var detokenizer = Detokenizer()
    let pieces = text.utf8.map { detokenizer.add(String(format: "<0x%02X>", $0)) }
    #expect(pieces.joined() == text)
    #expect(pieces.allSatisfy { !$0.contains("\u{FFFD}") })
  }
}
