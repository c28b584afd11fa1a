import DemoCore
import Foundation

/// Which of a bundle's artifacts runs.
enum EngineChoice: String, CaseIterable, Identifiable, Sendable {
  case coreml
  case executorch

  var id: Self { self }

  var title: String {
    switch self {
    case .coreml: "Core ML"
    case .executorch: "ExecuTorch"
    }
  }

  /// Those that a bundle has artifacts for.
  static func available(in manifest: Manifest) -> [EngineChoice] {
    allCases.filter { manifest.artifacts[$0.rawValue] != nil }
  }

  /// Loads the artifact, which takes seconds to minutes.
  ///
  /// - Parameter progress: a share of 1.
  func open(_ bundle: StoredBundle, progress: @escaping @Sendable (Double) -> Void) async throws -> any Engine {
    switch self {
    case .coreml:
      let packages = try await CoreMLPackages(manifest: bundle.manifest, bundle: bundle.folder) {
        progress(Double($0) / Double($1))
      }
      return try CoreMLSession(manifest: bundle.manifest, bundle: bundle.folder, runner: packages)
    case .executorch:
      return try ExecuTorchSession(manifest: bundle.manifest, bundle: bundle.folder, caches: .cachesDirectory)
    }
  }
}
