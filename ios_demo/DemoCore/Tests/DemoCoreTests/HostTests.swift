import Foundation
import Testing

@testable import DemoCore

/// What the host computes for each call, against `runtime/sessions/coreml_host.py`.
@Suite struct HostTests {
  struct Topic: Decodable {
    struct Blocks: Decodable {
      let vision: [Bool]
      let blocks: [Int]
    }

    struct Script: Decodable, CustomTestStringConvertible {
      let name: String
      let calls: [Wanted]
      var testDescription: String { name }
    }

    struct Wanted: Decodable {
      let prompt: Int
      let start: Int
      let count: Int
      let length: Int
      let function: String
      let blocks: [Int]
      let inputs: [String: Inputs]
    }

    struct Inputs: Decodable {
      let slot: Int
      /// By row, ranges of slots with 0 in the mask.
      let visible: [[[Int]]]
      let cos: [[Double]]
      let sin: [[Double]]
      /// By position of the call, its slot.
      let write: [Int]?
      let keep: [[Int]]?
    }

    struct Refused: Decodable {
      let blocks: [Int]
    }

    struct TableCase: Decodable {
      let table: Table
      let codes: Data
      let scales: Data
      let ids: [Int]
      let rows: [[Double]]
    }

    let host: DemoCore.Host
    let blocks: [Blocks]
    let tooLong: Refused
    let scripts: [Script]
    let tables: [TableCase]
  }

  static let topic: Topic = Vectors.read("coreml")
  let host = topic.host

  @Test func imagesAreNumbered() {
    for wanted in Self.topic.blocks {
      let tokens = wanted.vision.map { $0 ? 8 : 9 }
      #expect(numberBlocks(tokens, placeholder: 8) == wanted.blocks.map(image))
    }
  }

  @Test(arguments: topic.scripts)
  func callsAreCutAndGiven(_ script: Topic.Script) throws {
    for prompt in Set(script.calls.map(\.prompt)) {
      let wanted = script.calls.filter { $0.prompt == prompt }
      let blocks = wanted.flatMap { $0.blocks.map(image) }
      let calls = try planCalls(from: wanted[0].start, blocks: blocks, prefill: host.prefill)
      #expect(calls.map(\.start) == wanted.map(\.start))
      #expect(calls.map(\.count) == wanted.map(\.count))
      #expect(calls.map(\.function) == wanted.map(\.function))
      for (call, wanted) in zip(calls, wanted) {
        for (kind, layers) in host.attention { expect(call, layers, wanted.inputs[kind]) }
      }
    }
  }

  private func expect(_ call: Call, _ layers: Attention, _ wanted: Topic.Inputs?) {
    guard let wanted else {
      Issue.record("no such kind of layers")
      return
    }
    let inputs = host.inputs(of: call)
    #expect(inputs[layers.slot]?.values == [Float(wanted.slot)])
    #expect(inputs[layers.mask]?.asRows == wanted.visible.map { mask(of: $0, slots: layers.slots) })
    for (name, ends) in [(layers.cos, wanted.cos), (layers.sin, wanted.sin)] {
      let rows = inputs[name]?.asRows ?? []
      #expect(zip([rows.first, rows.last], ends).allSatisfy { row, end in isClose(row, end) })
    }
    expectPlacement(call, layers, wanted, inputs)
  }

  private func expectPlacement(_ call: Call, _ layers: Attention, _ wanted: Topic.Inputs, _ inputs: [String: Tensor]) {
    guard let slots = wanted.write, let kept = wanted.keep else {
      #expect(layers.write.flatMap { inputs[$0] } == nil)
      return
    }
    let write = inputs[layers.write ?? ""]?.asRows ?? []
    let found = (0..<call.count).map { column in write.indices.filter { write[$0][column] == 1 } }
    #expect(found == slots.map { [$0] })
    #expect(write.joined().reduce(0, +) == Float(call.count))
    let keep = kept.flatMap { Array($0[0]..<$0[1]) }
    #expect((inputs[layers.keep ?? ""]?.values ?? []).enumerated().filter { $0.element == 1 }.map(\.offset) == keep)
  }

  private func mask(of ranges: [[Int]], slots: Int) -> [Float] {
    (0..<slots).map { slot in ranges.contains { slot >= $0[0] && slot < $0[1] } ? 0 : Float(host.masked) }
  }

  private func isClose(_ row: [Float]?, _ wanted: [Double]) -> Bool {
    guard let row, row.count == wanted.count else { return false }
    return zip(row, wanted).allSatisfy { abs(Double($0) - $1) < 1e-6 }
  }

  private func image(_ block: Int) -> Int? {
    block < 0 ? nil : block
  }

  /// Values of Python's `survives` for 13 slots and a window of 5.
  @Test func aRingIsGoneBackInAsFarAsPythonDoes() throws {
    let sliding = try #require(host.attention["sliding"])
    let wanted = [
      (0, 13, true), (0, 14, false), (5, 14, false), (6, 14, true), (39, 48, false), (40, 48, true), (48, 48, true),
    ]
    for (position, end, survives) in wanted {
      #expect(sliding.survives(position, end: end) == survives)
      #expect(host.attention["full"]?.survives(position, end: end) == true)
    }
  }

  @Test func whatSurvivesIsInItsSlots() throws {
    let sliding = try #require(host.attention["sliding"])
    let window = try #require(sliding.window)
    for end in 1...host.context {
      let held = sliding.held(after: Call(start: end - 1, blocks: [nil], length: 1))
      for position in 0..<end where sliding.survives(position, end: end) {
        #expect((max(position - window + 1, 0)..<position).allSatisfy { held[$0 % sliding.slots] == $0 })
      }
    }
  }

  @Test func anImageLongerThanACallIsRefused() {
    let blocks = Self.topic.tooLong.blocks.map(image)
    #expect(throws: UserError.self) { try planCalls(from: 0, blocks: blocks, prefill: host.prefill) }
  }

  @Test(arguments: [4, 8, 32])
  func rowsAreRead(bits: Int) throws {
    let wanted = try #require(Self.topic.tables.first { $0.table.bits == bits })
    let folder = Scratch()
    try folder.write(wanted.codes, to: wanted.table.codes)
    if let scales = wanted.table.scales { try folder.write(wanted.scales, to: scales) }
    let table = try EmbeddingTable(wanted.table, bundle: folder.url)
    #expect(wanted.ids.map { table.row($0).map(Double.init) } == wanted.rows)
  }

  @Test func aTableThatWasCutIsRefused() throws {
    let wanted = try #require(Self.topic.tables.first { $0.table.bits == 8 })
    let folder = Scratch()
    try folder.write(wanted.codes.dropLast(), to: wanted.table.codes)
    try folder.write(wanted.scales, to: wanted.table.scales ?? "")
    #expect(throws: UserError.self) { try EmbeddingTable(wanted.table, bundle: folder.url) }
  }

  @Test func controlAPositionMoreIsNoticed() {
    let call = Call(start: 6, blocks: [nil, nil, nil], length: host.prefill)
    let later = Call(start: 7, blocks: [nil, nil, nil], length: host.prefill)
    for name in host.inputs(of: call).keys { #expect(host.inputs(of: call)[name] != host.inputs(of: later)[name]) }
  }
}
