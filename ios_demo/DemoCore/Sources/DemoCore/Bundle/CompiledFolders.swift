import Foundation

/// Where packages lie once they are compiled: a folder for each set of them, below one of the app's.
public struct CompiledFolders: Sendable {
  private let root: URL

  public init(root: URL) {
    self.root = root
  }

  /// Of a bundle's packages, which need not be there yet.
  public func folder(of manifest: Manifest) -> URL {
    root.appending(path: manifest.packagesKey)
  }

  /// Removes what no bundle has packages for: a copy takes as much storage as they do.
  public func keep(of manifests: [Manifest]) throws {
    let kept = Set(manifests.map(\.packagesKey))
    let found = (try? FileManager.default.contentsOfDirectory(atPath: root.path)) ?? []
    for name in found where !kept.contains(name) {
      try FileManager.default.removeItem(at: root.appending(path: name))
    }
  }
}

extension Manifest {
  /// Hexadecimal, of the packages' bytes: weights alone do not say how they were lowered, and for which context.
  var packagesKey: String {
    var checksum = Checksum()
    let packages = files.filter { $0.path.hasPrefix("\(CoreMLSession.format)/") }
    for file in packages.sorted(by: { $0.path < $1.path }) {
      checksum.update(Data("\(file.path)\n\(file.size)\n\(file.sha256)\n".utf8))
    }
    return checksum.finish()
  }
}
