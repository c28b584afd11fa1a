import DemoCore
import Foundation
import Observation

/// What all screens share: the bundles, and the one that is loaded.
@MainActor @Observable
final class AppModel {
  /// A bundle ready to run.
  @MainActor
  struct Loaded {
    let bundle: StoredBundle
    let choice: EngineChoice
    let engine: any Engine
    let lease = EngineLease()
    let tokenizer: BundleTokenizer
    /// Seconds.
    let loading: Double
    /// Bytes that the process took then.
    let memory: Int
  }

  let store = BundleStore()
  private(set) var loaded: Loaded?
  /// A share of 1 while something is being loaded.
  private(set) var progress: Double?
  /// For an alert.
  var trouble: String?
  private var task: Task<Void, Never>?

  /// Asked at every start: the bundles that are there, and whether the system ended the app last time.
  func start() {
    store.refresh()
    trouble = trouble ?? Witness.testimony()
  }

  func fit(_ bundle: StoredBundle) -> DeviceFit {
    DeviceFit(
      needed: bundle.manifest.limits.minimumMemory, total: Int(ProcessInfo.processInfo.physicalMemory),
      available: ProcessMemory.available)
  }

  /// Whatever was loaded before goes first: two models do not fit.
  func load(_ bundle: StoredBundle, _ choice: EngineChoice) {
    task?.cancel()
    loaded = nil
    progress = 0
    task = Task {
      defer { progress = nil }
      await tellTrouble { try await Awake.during { try await self.open(bundle, choice) } }
    }
  }

  private func open(_ bundle: StoredBundle, _ choice: EngineChoice) async throws {
    var engine: (any Engine)?
    let loading = try await seconds {
      engine = try await Witness.during("loading \(bundle.name)") {
        try await choice.open(bundle) { share in Task { @MainActor in self.progress = share } }
      }
    }
    guard let engine else { return }
    let tokenizer = try await BundleTokenizer(bundle: bundle.folder)
    loaded = Loaded(
      bundle: bundle, choice: choice, engine: engine, tokenizer: tokenizer, loading: loading,
      memory: ProcessMemory.footprint)
  }

  /// Errors become an alert; what the user stopped is none.
  func tellTrouble(_ work: () async throws -> Void) async {
    do {
      try await work()
    } catch is CancellationError {
      return
    } catch {
      trouble = error.localizedDescription
    }
  }
}
