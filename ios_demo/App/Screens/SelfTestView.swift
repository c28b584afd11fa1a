import DemoCore
import SwiftUI

/// Replays the bundle's goldens on this device: does it write what the reference wrote?
struct SelfTestView: View {
  @Environment(AppModel.self) private var model
  let loaded: AppModel.Loaded
  @State private var outcomes: [SelfTest.Outcome] = []
  /// Goldens that are not compared, and why.
  @State private var skipped: [String: String] = [:]
  @State private var task: Task<Void, Never>?
  @State private var isRunning = false

  private var goldens: [GoldenEntry] { loaded.bundle.manifest.goldens }

  var body: some View {
    NavigationStack {
      List {
        Section {
          if isRunning {
            ProgressView(value: Double(outcomes.count + skipped.count), total: Double(max(goldens.count, 1)))
            Button("Stop") { task?.cancel() }
          } else {
            Button("Replay \(goldens.count) goldens") {
              task = Task { await model.tellTrouble { try await loaded.lease.hold(run) } }
            }
            .disabled(goldens.isEmpty || loaded.lease.isTaken)
          }
        } footer: {
          Text("Goldens of a kind are judged together. Tokens may differ where the reference itself was undecided.")
        }
        ForEach(GoldenEntry.Modality.allCases, id: \.self) { modality in
          let found = outcomes.filter { $0.modality == modality }
          if !found.isEmpty {
            Section(modality.rawValue) {
              JudgementRow(judgement: Judgement(found.map(\.comparison), bounds(modality)))
              ForEach(found, id: \.name) { OutcomeRow(outcome: $0) }
            }
          }
        }
        ForEach(skipped.sorted { $0.key < $1.key }, id: \.key) { name, reason in
          LabeledContent("\(name): not compared") { Text(reason).font(.caption) }.foregroundStyle(.secondary)
        }
      }
      .navigationTitle("Self-test")
    }
  }

  private func run() async throws {
    (outcomes, skipped) = ([], [:])
    isRunning = true
    defer { isRunning = false }
    for entry in goldens { try await replay(Golden(entry, bundle: loaded.bundle.folder)) }
  }

  private func replay(_ golden: Golden) async throws {
    let context = loaded.engine.context
    guard golden.positions <= context else {
      skipped[golden.name] = "\(golden.positions) positions do not fit the context of \(context)"
      return
    }
    let test = SelfTest(golden, tokens: loaded.bundle.manifest.tokens)
    outcomes.append(try await test.run(on: loaded.engine))
  }

  private func bounds(_ modality: GoldenEntry.Modality) -> Bounds {
    Bounds(loaded.bundle.manifest.verification, format: loaded.engine.name, modality: modality)
  }
}

/// Of a modality's goldens, as far as they were replayed.
private struct JudgementRow: View {
  let judgement: Judgement

  var body: some View {
    Label {
      VStack(alignment: .leading) {
        Text(judgement.passed ? "As the reference" : judgement.faults.joined(separator: "; "))
        Text(judgement.summary).foregroundStyle(.secondary)
      }
      .font(.callout)
    } icon: {
      Image(systemName: judgement.passed ? "checkmark.circle.fill" : "xmark.octagon.fill")
        .foregroundStyle(judgement.passed ? .green : .red)
    }
  }
}

private struct OutcomeRow: View {
  let outcome: SelfTest.Outcome

  var body: some View {
    let found = outcome.comparison
    VStack(alignment: .leading) {
      Text(outcome.name).font(.headline)
      Text(found.told)
      Text("mean KL \(found.meanKL, format: .number.notation(.scientific)), rms \(found.rms, format: .percent)")
        .foregroundStyle(.secondary)
    }
    .font(.callout)
  }
}

extension Comparison {
  fileprivate var told: String {
    let differs = errors.isEmpty ? "as expected" : "other tokens at \(list(errors))"
    let ties = nearTies.isEmpty ? "" : ", near ties at \(list(nearTies))"
    return "\(compared) tokens, \(differs)\(ties)"
  }

  private func list(_ positions: [Int]) -> String {
    positions.map(String.init).joined(separator: ", ")
  }
}
