import DemoCore
import SwiftUI

/// Prefill and decode, in rounds; the result is what `python -m runtime report --bench` reads.
struct BenchmarkView: View {
  @Environment(AppModel.self) private var model
  let loaded: AppModel.Loaded
  @State private var work = Benchmark.Work()
  @State private var share: Double?
  @State private var results: [Benchmark.TextSpeed] = []
  @State private var report: URL?
  @State private var task: Task<Void, Never>?

  var body: some View {
    NavigationStack {
      List {
        Section {
          Stepper("\(work.repeats) rounds", value: $work.repeats, in: 1...20)
          if let share {
            ProgressView(value: share)
            Button("Stop") { task?.cancel() }
          } else {
            Button("Measure") { task = Task { await model.tellTrouble(measure) } }
          }
        } footer: {
          Text("Phones slow down as they get warm: let yours cool, and look at the spread.")
        }
        Section { ForEach(results, id: \.length) { SpeedRow(speed: $0) } }
        if let report { ShareLink("Share as JSON", item: report) }
      }
      .navigationTitle("Benchmark")
    }
  }

  private func measure() async throws {
    defer { share = nil }
    share = 0
    let tokens = loaded.tokenizer.encode(String(repeating: "The old man came to the sea in the evening. ", count: 8))
    let benchmark = Benchmark(loaded.engine, tokens: tokens, work: work)
    results = try await benchmark.run { done, total in
      Task { @MainActor in share = Double(done) / Double(total) }
    }
    report = try write(benchmark.work)
  }

  private func write(_ work: Benchmark.Work) throws -> URL {
    let memory = BenchReport.Memory(
      loaded: loaded.memory, steady: ProcessMemory.footprint, peak: ProcessMemory.peak)
    let report = BenchReport(
      bundle: loaded.bundle.name, manifest: loaded.bundle.manifest, engine: loaded.engine.name, work: work,
      text: results, load: loaded.loading, memory: memory, device: .current)
    let file = FileManager.default.temporaryDirectory.appending(path: "bench.json")
    try JSONEncoder().encode(report.json).write(to: file)
    return file
  }
}

private struct SpeedRow: View {
  let speed: Benchmark.TextSpeed

  var body: some View {
    VStack(alignment: .leading) {
      Text("\(speed.length) positions").font(.headline)
      Text("first token after \(speed.firstToken.median, format: .number.precision(.significantDigits(3))) s")
      Text("prefill \(speed.prefill.median, format: .number.precision(.significantDigits(3))) tokens/s")
      if let decode = speed.decode {
        Text("decode \(decode.median, format: .number.precision(.significantDigits(3))) tokens/s")
      }
      Text("spread \(speed.firstToken.spread, format: .percent.precision(.fractionLength(0)))").foregroundStyle(
        .secondary)
    }
    .font(.callout)
  }
}
