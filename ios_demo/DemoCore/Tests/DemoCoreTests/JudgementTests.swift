import Testing

@testable import DemoCore

/// Goldens of a modality are judged together, as `_values` of `runtime/checks/goldens.py` does.
@Suite struct JudgementTests {
  /// Of as many steps as there are distances: by how much one of two equal logits is off.
  private func comparison(_ distances: [Double], chosen: Int = 0) -> Comparison {
    Comparison(
      reference: distances.map { _ in 0 }, gaps: distances.map { _ in 9 }, chosen: distances.map { _ in chosen },
      wanted: distances.map { _ in [9, 9] }, found: distances.map { [9, 9 + $0] })
  }

  @Test func klIsTheMeanOverAllSteps() {
    let (far, near) = (comparison([0.25]), comparison([0, 0]))
    #expect(!Judgement([far], Bounds()).passed, "control: alone it is beyond the bound")
    let both = Judgement([far, near], Bounds())
    #expect(isClose(both.meanKL, far.kl[0] / 3) && both.passed)
  }

  @Test func rmsIsTheLargest() {
    let (far, near) = (comparison([0.5, 0]), comparison([0]))
    var bounds = Bounds()
    bounds.meanKL = 1
    bounds.rms = far.rms * 0.9
    #expect(Judgement([near, far], bounds).faults.map { $0.hasPrefix("the rms") } == [true])
    bounds.rms = far.rms
    #expect(Judgement([near, far], bounds).passed, "control: at the bound")
  }

  @Test func otherTokensAreCountedByGolden() {
    let (wrong, right) = (comparison([0, 0], chosen: 1), comparison([0]))
    var bounds = Bounds()
    bounds.unequal = 1
    #expect(Judgement([wrong, right], bounds).passed)
    #expect(Judgement([wrong, wrong], bounds).faults == ["2 with other tokens, 1 may have them"])
  }

  @Test func whatIsNoNumberPassesNothing() {
    #expect(Judgement([comparison([.nan])], Bounds()).faults.count == 2)
  }
}
