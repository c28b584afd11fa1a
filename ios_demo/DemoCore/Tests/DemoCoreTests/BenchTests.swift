import Foundation
import Testing

@testable import DemoCore

@Suite struct BenchTests {
  struct Statistics: Decodable {
    struct Case: Decodable, CustomTestStringConvertible {
      let name: String
      let given: [Double]
      let median: Double
      let spread: Double
      let values: [Double]
      var testDescription: String { name }
    }

    let figures: [Case]
  }

  struct Topic: Decodable {
    let bench: JSONValue
  }

  static let statistics: Statistics = Vectors.read("statistics")

  @Test(arguments: statistics.figures)
  func figuresAreNumPys(_ wanted: Statistics.Case) {
    let found = Figure(wanted.given)
    #expect(isClose(found.median, wanted.median))
    #expect(isClose(found.spread, wanted.spread, within: 1e-6))
    #expect(found.values == wanted.values)
  }

  /// The fields that `report --bench` reads, no more and no fewer.
  @Test func aReportHasTheFieldsThatPythonReads() throws {
    let text = try #require(ManifestTests.topic.good.first { $0.name == "everything" }).text
    let speed = Benchmark.TextSpeed(length: 16, firstToken: Figure([0.13]), decode: Figure([4.4, 4.8]))
    let report = BenchReport(
      bundle: "tiny-int4", manifest: try ManifestReader.decode(Data(text.utf8)), engine: "coreml", work: .init(),
      text: [speed], load: 7, memory: .init(loaded: 1, steady: 2, peak: 3),
      device: .init(name: "iPad16,6", system: "iPadOS 18.0", cores: 10, memory: 16_000_000_000))
    let wanted: Topic = try rawVectors("bench")
    #expect(fields(of: report.json) == fields(of: wanted.bench).filter { !$0.contains("media.") })
  }

  /// With keys as they are written.
  private func rawVectors<Value: Decodable>(_ topic: String) throws -> Value {
    let folder = try #require(ProcessInfo.processInfo.environment["VECTORS"])
    let data = try Data(contentsOf: URL(filePath: folder).appending(path: "\(topic).json"))
    return try JSONDecoder().decode(Value.self, from: data)
  }

  /// Paths of all keys but those of dictionaries by name.
  private func fields(of value: JSONValue, at path: String = "") -> Set<String> {
    switch value {
    case .object(let entries) where !path.hasSuffix("packages.") && !path.hasSuffix("skipped."):
      Set(entries.flatMap { key, value in fields(of: value, at: "\(path)\(key).").union(["\(path)\(key)"]) })
    case .array(let items): Set(items.flatMap { fields(of: $0, at: path) })
    default: []
    }
  }
}
