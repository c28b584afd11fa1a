import Foundation
import Testing

@testable import DemoCore

/// Patches of pictures, against the checkpoint's processor.
@Suite struct ImageTests {
  struct Topic: Decodable {
    struct Case: Decodable, CustomTestStringConvertible {
      let name: String
      let width: Int
      let height: Int
      let pixels: Data
      let budget: Int
      let patches: Data
      let cells: [[Float]]
      var testDescription: String { name }
    }

    let cases: [Case]
  }

  static let topic: Topic = Vectors.read("images")

  @Test(arguments: topic.cases)
  func patchesAreTheProcessors(_ wanted: Topic.Case) throws {
    let found = try ImageProcessor(budget: wanted.budget)(picture(wanted))
    #expect(found.cells.asRows == wanted.cells)
    let differences = zip(found.patches.values, wanted.patches).map { abs(Int(($0 * 255).rounded()) - Int($1)) }
    #expect(differences.count == wanted.patches.count)
    #expect(differences.max() ?? 0 <= 1)
    let differing = differences.filter { $0 > 0 }.count
    #expect(differing * 50 < differences.count, "\(differing) of \(differences.count) bytes differ")
  }

  @Test func planesAreThePictureAgain() throws {
    let wanted = try #require(Self.topic.cases.first { $0.name == "as it is" })
    let planes = try ImageProcessor(budget: wanted.budget)(picture(wanted)).planes
    #expect(planes.shape == [1, 3, wanted.height, wanted.width])
    let area = wanted.width * wanted.height
    let again = (0..<area).flatMap { pixel in (0..<3).map { UInt8(planes.values[$0 * area + pixel] * 255) } }
    #expect(Data(again) == wanted.pixels)
  }

  @Test(arguments: [(4032, 3024), (3024, 4032), (8064, 1500)])
  func whatIsDecodedHasTheSameCells(width: Int, height: Int) throws {
    let processor = ImageProcessor(budget: 280)
    let side = try processor.decodedSide(width: width, height: height)
    #expect(side < max(width, height))
    let scale = Double(side) / Double(max(width, height))
    let (less, lower) = (Int((Double(width) * scale).rounded()), Int((Double(height) * scale).rounded()))
    let wanted = try processor.fittingSize(width: width, height: height)
    #expect(try processor.fittingSize(width: less, height: lower) == wanted)
  }

  @Test func anImageOfTooManyCellsAlongASideIsRefused() throws {
    let pixels = [UInt8](repeating: 0, count: 48 * 48 * 3 * 3)
    let image = try ImageProcessor(budget: 3)(RGBImage(width: 48, height: 48 * 3, pixels: pixels))
    try image.requireSides(upTo: 3)
    #expect(throws: UserError("an image of 3 soft tokens along a side is too long, 2 fit: crop it")) {
      try image.requireSides(upTo: 2)
    }
  }

  private func picture(_ wanted: Topic.Case) -> RGBImage {
    RGBImage(width: wanted.width, height: wanted.height, pixels: Array(wanted.pixels))
  }
}
