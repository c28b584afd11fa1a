import Foundation
import Testing

@testable import DemoCore

/// What becomes of a part of a file that is there, against the vectors.
@Suite struct ResumptionTests {
  struct Topic: Decodable {
    struct Case: Decodable, CustomTestStringConvertible {
      let name: String
      /// Hexadecimal, as all bytes here.
      let part: String
      let range: String?
      let status: Int?
      let body: String
      let after: String
      let then: String
      var testDescription: String { name }
    }

    let file: File
    let cases: [Case]
  }

  /// One answer of a server.
  private struct Replay: Transport {
    actor Asked {
      private(set) var ranges: [String?] = []

      func note(_ offset: Int) {
        ranges.append(offset == 0 ? nil : "bytes=\(offset)-")
      }
    }

    let manifest: Data
    let wanted: Topic.Case
    let asked = Asked()

    func fetch(_ path: String, from offset: Int) async throws -> Answer {
      guard path != ManifestReader.file else { return Answer(offset: 0, bytes: stream(manifest)) }
      await asked.note(offset)
      return Answer(offset: wanted.status == 206 ? offset : 0, bytes: stream(bytes(wanted.body)))
    }

    private func stream(_ data: Data) -> AsyncThrowingStream<Data, any Error> {
      AsyncThrowingStream { continuation in
        continuation.yield(data)
        continuation.finish()
      }
    }
  }

  static let topic: Topic = Vectors.read("downloads")
  let device = Scratch()

  @Test(arguments: topic.cases)
  func partsAreKeptOrThrownAway(_ wanted: Topic.Case) async throws {
    let file = Self.topic.file
    let partial = file.path + ".partial"
    try device.write(bytes(wanted.part), to: partial)
    let manifest = try manifestData(entries: [(file.path, file.size, file.sha256)])
    let replay = Replay(manifest: manifest, wanted: wanted)
    let whole = try? await Download(into: device.url, by: replay).run { _, _ in }
    #expect(await replay.asked.ranges == (wanted.status == nil ? [] : [wanted.range]))
    #expect((whole != nil) == (wanted.then == "done"))
    let left = try? Data(contentsOf: device.url.appending(path: wanted.then == "done" ? file.path : partial))
    #expect((left ?? Data()) == (wanted.then == "begin again" ? Data() : bytes(wanted.after)))
  }
}

/// Of hexadecimal.
private func bytes(_ text: String) -> Data {
  let digits = Array(text)
  return Data(stride(from: 0, to: digits.count, by: 2).compactMap { UInt8(String(digits[$0..<$0 + 2]), radix: 16) })
}
