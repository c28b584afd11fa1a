import Testing

@testable import DemoCore

@Suite struct DeviceTests {
  struct Topic: Decodable {
    struct Case: Decodable {
      let needed: Int
      let total: Int
      let available: Int
      let fit: String
      let numbers: [String]
    }

    struct Size: Decodable {
      let bytes: Int
      let text: String
    }

    let cases: [Case]
    let sizes: [Size]
  }

  static let topic: Topic = Vectors.read("devices")

  @Test func verdictsArePythons() {
    for wanted in Self.topic.cases {
      let fit = DeviceFit(needed: wanted.needed, total: wanted.total, available: wanted.available)
      #expect(fit.verdict.rawValue == wanted.fit)
      #expect(fit.warning?.contains(wanted.numbers[0]) ?? (fit.verdict == .fits))
    }
  }

  @Test func sizesAreToldAlike() {
    for wanted in Self.topic.sizes { #expect(gigabytes(wanted.bytes) == wanted.text) }
  }
}
