import Foundation
import Testing

@testable import DemoCore

/// Which compiled packages serve which bundle.
@Suite struct CompiledTests {
  let root = Scratch()

  /// - Parameter package: sha256 of its only file.
  private func manifest(_ package: String, size: Int = 9, beside: String = "0") throws -> Manifest {
    try ManifestReader.decode(
      try manifestData(entries: [
        ("coreml/chunk_00.mlpackage/Manifest.json", size, package), ("goldens/text.json", 5, beside),
      ]))
  }

  @Test func otherPackagesOfTheSameWeightsAreCompiledAnew() throws {
    let keys = [try manifest("aa"), try manifest("bb"), try manifest("aa", size: 10)].map(\.packagesKey)
    #expect(Set(keys).count == keys.count)
  }

  @Test func controlTheSamePackagesServeAgain() throws {
    #expect(try manifest("aa").packagesKey == manifest("aa", beside: "1").packagesKey)
  }

  @Test func whatNoBundleNamesIsRemoved() throws {
    let folders = CompiledFolders(root: root.url)
    let (kept, gone) = (try manifest("aa"), try manifest("bb"))
    for each in [kept, gone] {
      let folder = folders.folder(of: each)
      try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
      try Data().write(to: folder.appending(path: "weights"))
    }
    try folders.keep(of: [kept])
    #expect(try FileManager.default.contentsOfDirectory(atPath: root.url.path) == [kept.packagesKey])
  }

  @Test func nothingCompiledYetIsNoTrouble() throws {
    try CompiledFolders(root: root.url).keep(of: [])
  }
}
