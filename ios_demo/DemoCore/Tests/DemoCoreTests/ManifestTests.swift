import Foundation
import Testing

@testable import DemoCore

@Suite struct ManifestTests {
  struct Topic: Decodable {
    struct Case: Decodable, CustomTestStringConvertible {
      let name: String
      let text: String
      var testDescription: String { name }
    }

    let formatVersion: Int
    let good: [Case]
    let bad: [Case]
  }

  static let topic: Topic = Vectors.read("manifests")

  @Test func theVersionIsPythons() {
    #expect(ManifestReader.formatVersion == Self.topic.formatVersion)
  }

  @Test(arguments: topic.good)
  func goodOnesAreRead(_ manifest: Topic.Case) throws {
    _ = try ManifestReader.decode(Data(manifest.text.utf8))
  }

  @Test(arguments: topic.bad)
  func badOnesAreRefused(_ manifest: Topic.Case) {
    #expect {
      try ManifestReader.decode(Data(manifest.text.utf8))
    } throws: { error in
      let tooOld = manifest.name.hasPrefix("newer version")
      return error is UserError && error.localizedDescription.hasSuffix("update the app") == tooOld
    }
  }

  @Test func nothingIsLost() throws {
    let text = try #require(Self.topic.good.first { $0.name == "everything" }).text
    let manifest = try ManifestReader.decode(Data(text.utf8))
    #expect(manifest.artifacts["coreml"]?.host?.attention["sliding"]?.write != nil)
    #expect(manifest.dialogue?.tools != nil)
    #expect(manifest.verification != nil)
  }
}
