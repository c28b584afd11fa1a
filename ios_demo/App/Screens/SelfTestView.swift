import DemoCore
import SwiftUI

/// Replays the bundle's goldens on this device: does it write what the reference wrote?
struct SelfTestView: View {
  @Environment(AppModel.self) private var model
  let loaded: AppModel.Loaded
  @State private var outcomes: [SelfTest.Outcome] = []
  @State private var task: Task<Void, Never>?
  @State private var isRunning = false

  private var goldens: [GoldenEntry] { loaded.bundle.manifest.goldens }

  var body: some View {
    NavigationStack {
      List {
        Section {
          if isRunning {
            ProgressView(value: Double(outcomes.count), total: Double(max(goldens.count, 1)))
            Button("Stop") { task?.cancel() }
          } else {
            Button("Replay \(goldens.count) goldens") {
              task = Task { await model.tellTrouble { try await loaded.lease.hold(run) } }
            }
            .disabled(goldens.isEmpty || loaded.lease.isTaken)
          }
        } footer: {
          Text("Tokens may differ where the reference itself was undecided.")
        }
        Section { ForEach(outcomes, id: \.name) { OutcomeRow(outcome: $0) } }
      }
      .navigationTitle("Self-test")
    }
  }

  private func run() async throws {
    outcomes = []
    isRunning = true
    defer { isRunning = false }
    for entry in goldens {
      let golden = try Golden(entry, bundle: loaded.bundle.folder)
      let manifest = loaded.bundle.manifest
      let bounds = Bounds(manifest.verification, format: loaded.engine.name, modality: entry.modality)
      outcomes.append(try await SelfTest(golden, tokens: manifest.tokens, bounds: bounds).run(on: loaded.engine))
    }
  }
}

private struct OutcomeRow: View {
  let outcome: SelfTest.Outcome

  var body: some View {
    let found = outcome.comparison
    Label {
      VStack(alignment: .leading) {
        Text(outcome.name).font(.headline)
        Text(
          outcome.passed
            ? "\(found.compared) tokens as expected"
            : "other tokens at \(found.errors.map(String.init).joined(separator: ", "))")
        Text("KL \(found.kl.max() ?? 0, format: .number.notation(.scientific)), rms \(found.rms, format: .percent)")
          .foregroundStyle(.secondary)
      }
      .font(.callout)
    } icon: {
      Image(systemName: outcome.passed ? "checkmark.circle.fill" : "xmark.octagon.fill")
        .foregroundStyle(outcome.passed ? .green : .red)
    }
  }
}
