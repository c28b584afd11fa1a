import Foundation
import Testing

@testable import DemoCore

/// Against the standard's own examples (FIPS 180-4, NIST's CAVP) at the edges of a block.
@Suite struct ChecksumTests {
  @Test(arguments: [
    ("", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
    ("abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
    (
      "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
      "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"
    ),
  ])
  func knownAnswers(text: String, wanted: String) {
    var checksum = Checksum()
    checksum.update(Data(text.utf8))
    #expect(checksum.finish() == wanted)
  }

  @Test func aMillionBytesInPieces() {
    var checksum = Checksum()
    var left = 1_000_000
    for size in sequence(first: 1, next: { $0 % 997 + 7 }) {
      checksum.update(Data(repeating: UInt8(ascii: "a"), count: min(size, left)))
      left -= min(size, left)
      if left == 0 { break }
    }
    #expect(checksum.finish() == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0")
  }
}
