import DemoCore
import Foundation

/// `drive BUNDLE GOLDEN...`: replays goldens of a bundle, as the app's self-test does, where there is no Core ML. The
/// packages are run by whoever reads this process's standard output; see `Pipe`.
@main
struct Drive {
  static func main() async {
    do {
      let arguments = CommandLine.arguments.dropFirst()
      guard let folder = arguments.first else { throw UserError("usage: drive BUNDLE GOLDEN...") }
      try await replay(Set(arguments.dropFirst()), of: URL(filePath: folder))
    } catch {
      FileHandle.standardError.write(Data("error: \(error.localizedDescription)\n".utf8))
      exit(2)
    }
  }

  private static func replay(_ names: Set<String>, of bundle: URL) async throws {
    let manifest = try ManifestReader.read(bundle: bundle)
    let pipe = Pipe()
    let session = try CoreMLSession(manifest: manifest, bundle: bundle, runner: pipe)
    for entry in manifest.goldens where names.contains(entry.name) {
      let golden = try Golden(entry, bundle: bundle)
      let outcome = try await SelfTest(golden, tokens: manifest.tokens).run(on: session)
      try await pipe.tell(outcome)
    }
  }
}
