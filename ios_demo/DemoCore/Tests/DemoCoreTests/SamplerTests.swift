import Foundation
import Testing

@testable import DemoCore

@Suite struct SamplerTests {
  struct Topic: Decodable {
    struct Case: Decodable, CustomTestStringConvertible {
      let name: String
      let logits: [Float]
      let sampling: Sampling
      let suppress: [Int]
      let token: Int?
      let chances: [String: Double]?
      let draws: [[Double]]?
      var testDescription: String { name }
    }

    let cases: [Case]
  }

  static let topic: Topic = Vectors.read("sampling")

  @Test(arguments: topic.cases)
  func chancesAreTransformers(_ wanted: Topic.Case) {
    guard let chances = wanted.chances, let draws = wanted.draws else {
      #expect(greedy(wanted.logits, suppressed: wanted.suppress) == wanted.token)
      return
    }
    let found = probabilities(suppress(wanted.logits, wanted.suppress), wanted.sampling)
    #expect(Set(found.keys.map(String.init)) == Set(chances.keys))
    #expect(found.allSatisfy { isClose($0.value, chances[String($0.key)] ?? -1) })
    for pair in draws { #expect(draw(found, pair[0]) == Int(pair[1])) }
  }

  @Test func aSeedRepeats() throws {
    let wanted = try #require(Self.topic.cases.first { $0.name == "hot" })
    func tokens(seed: UInt64) -> [Int] {
      var sampler = Sampler(wanted.sampling, suppressed: wanted.suppress, seed: seed)
      return (0..<20).map { _ in sampler.choose(wanted.logits) }
    }
    #expect(tokens(seed: 1) == tokens(seed: 1))
    #expect(tokens(seed: 1) != tokens(seed: 2))
  }
}
