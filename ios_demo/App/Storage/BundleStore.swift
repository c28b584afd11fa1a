import DemoCore
import Foundation
import Observation

/// The bundles in the app's documents, where Finder and the Files app can put them too.
@MainActor @Observable
final class BundleStore {
  /// How far a download or a copy is.
  struct Progress {
    let name: String
    let share: Double
    let text: String
  }

  private(set) var bundles: [StoredBundle] = []
  /// Folders that are no bundles that this app reads, and why.
  private(set) var refused: [String: String] = [:]
  private(set) var progress: Progress?
  private var task: Task<Void, any Error>?
  private let folder = URL.documentsDirectory

  func refresh() {
    bundles = []
    refused = [:]
    let found = try? FileManager.default.contentsOfDirectory(at: folder, includingPropertiesForKeys: [.isDirectoryKey])
    guard let found else { return }
    for url in found.sorted(by: { $0.path < $1.path }) where url.hasDirectoryPath { take(url) }
    try? CompiledPackages.folders.keep(of: bundles.map(\.manifest))
  }

  private func take(_ folder: URL) {
    try? folder.excludeFromBackup()
    do {
      let manifest = try ManifestReader.read(bundle: folder)
      guard BundleFiles(folder: folder).missing(manifest).isEmpty else { throw UserError("files are missing") }
      bundles.append(StoredBundle(folder: folder, manifest: manifest))
    } catch {
      refused[folder.lastPathComponent] = error.localizedDescription
    }
  }

  func delete(_ bundle: StoredBundle) throws {
    try FileManager.default.removeItem(at: bundle.folder)
    refresh()
  }

  /// From another folder, for example of a drive in the Files app.
  func copy(from source: URL) async throws {
    let target = folder.appending(path: source.lastPathComponent)
    try await work(named: source.lastPathComponent) { tell in
      guard source.startAccessingSecurityScopedResource() else { throw UserError("the folder may not be read") }
      defer { source.stopAccessingSecurityScopedResource() }
      _ = try await Download(into: target, by: FolderTransport(folder: source)).run(progress: tell)
    }
  }

  /// - Parameter address: of the folder that `manifest.json` lies in.
  func download(from address: URL) async throws {
    let target = folder.appending(path: address.lastPathComponent)
    try await work(named: address.lastPathComponent) { tell in
      _ = try await Download(into: target, by: WebTransport(base: address)).run(progress: tell)
    }
  }

  /// What has arrived stays, and the next try goes on from there.
  func cancel() {
    task?.cancel()
  }

  private func work(
    named name: String, _ body: @escaping @Sendable (@escaping @Sendable (Int, Int) -> Void) async throws -> Void
  ) async throws {
    defer {
      progress = nil
      refresh()
    }
    let task = Task {
      try await body { done, total in
        Task { @MainActor in self.show(name, done, total) }
      }
    }
    self.task = task
    try await Awake.during { try await task.value }
  }

  private func show(_ name: String, _ done: Int, _ total: Int) {
    let text = "\(gigabytes(done)) of \(gigabytes(total))"
    progress = Progress(name: name, share: Double(done) / Double(max(total, 1)), text: text)
  }
}
