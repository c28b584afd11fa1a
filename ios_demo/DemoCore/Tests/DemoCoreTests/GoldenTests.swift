import Foundation
import Testing

@testable import DemoCore

/// Figures of a device on a golden, against `runtime/goldens.py`.
@Suite struct GoldenTests {
  struct Topic: Decodable {
    struct Golden: Decodable {
      let tokens: [Int]
      let gaps: [Double]
      let topIds: [[Int]]
      let topLogits: [[Double]]
    }

    struct Case: Decodable, CustomTestStringConvertible {
      let name: String
      let logits: [[Float]]
      let nearTies: [Int]
      let errors: [Int]
      let kl: [Double]
      let rms: Double
      let largest: Double
      let passed: Bool
      var testDescription: String { name }
    }

    let nearTie: Double
    let suppress: [Int]
    let golden: Golden
    let cases: [Case]
  }

  static let topic: Topic = Vectors.read("goldens")

  @Test(arguments: topic.cases)
  func figuresArePythons(_ wanted: Topic.Case) {
    let golden = Self.topic.golden
    let found = Comparison(
      reference: golden.tokens, gaps: golden.gaps,
      chosen: wanted.logits.map { greedy($0, suppressed: Self.topic.suppress) }, wanted: golden.topLogits,
      found: zip(golden.topIds, wanted.logits).map { ids, row in ids.map { Double(row[$0]) } })
    #expect(found.nearTies == wanted.nearTies)
    #expect(found.errors == wanted.errors)
    #expect(zip(found.kl, wanted.kl).allSatisfy { isClose($0, $1) })
    #expect(isClose(found.rms, wanted.rms, within: 1e-6))
    #expect(isClose(found.largest, wanted.largest, within: 1e-6))
    #expect(Judgement([found], Bounds()).passed == wanted.passed)
  }

  @Test func boundsArePythons() {
    #expect(Comparison.nearTie == Self.topic.nearTie)
  }

  @Test func boundsThatTorchNeededAreTheBundles() {
    func measure(_ name: String, _ bound: Double, _ note: String) -> Measure {
      Measure(
        check: "goldens", engine: "coreml-evaluator", modality: "text", name: name, value: 0, bound: bound,
        atLeast: false, passed: true, note: note, series: nil)
    }
    let measures = [
      measure("golden_kl_mean", 0.02, "8 steps; in torch 0.013"), measure("golden_rms", 0.09, "somebody set it"),
    ]
    let verification = Verification(ran: [], skipped: [:], reference: nil, measures: measures, passed: true)
    let found = Bounds(verification, format: "coreml", modality: .text)
    #expect(found.meanKL == 0.02 && found.rms == Bounds().rms && found.unequal == 0)
    #expect(Bounds(verification, format: "executorch", modality: .text) == Bounds(), "control: another engine")
    #expect(Bounds(nil, format: "coreml", modality: .text) == Bounds(), "control: never verified")
  }
}
