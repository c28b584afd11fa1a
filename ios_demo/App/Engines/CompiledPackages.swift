import CoreML
import DemoCore
import Foundation

/// Packages compiled for this device, once.
struct CompiledPackages {
  static let folders = CompiledFolders(root: .applicationSupportDirectory.appending(path: "Compiled"))

  private let bundle: URL
  private let folder: URL
  private let identity: String

  /// - Parameter bundle: folder that holds the packages.
  init(bundle: URL, manifest: Manifest, host: DemoCore.Host) throws {
    self.bundle = bundle
    identity = host.identity
    folder = Self.folders.folder(of: manifest)
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    try folder.excludeFromBackup()
  }

  /// - Parameters:
  ///   - package: path in the bundle, `coreml/chunk_00.mlpackage`.
  ///   - function: nil for a package that has one.
  /// - Throws: `UserError` if the package is of another bundle; what Core ML throws.
  func load(_ package: String, function: String? = nil) async throws -> sending MLModel {
    let configuration = MLModelConfiguration()
    configuration.computeUnits = .cpuAndGPU  // int4 in blocks does not run on the Neural Engine
    configuration.functionName = function
    let model = try await MLModel.load(contentsOf: try await compiled(package), configuration: configuration)
    let metadata = model.modelDescription.metadata[.creatorDefinedKey] as? [String: String]
    guard metadata?["identity"] == identity else {
      throw UserError("\(package) is of another bundle: export this one again")
    }
    return model
  }

  private func compiled(_ package: String) async throws -> URL {
    let source = bundle.appending(path: package)
    let target = folder.appending(path: source.deletingPathExtension().lastPathComponent + ".mlmodelc")
    if !FileManager.default.fileExists(atPath: target.path) {
      let made = try await MLModel.compileModel(at: source)
      try FileManager.default.moveItem(at: made, to: target)
    }
    return target
  }
}
