import DemoCore
import Foundation
import Synchronization

/// Packages at the other end of standard output and input.
///
/// A request is a line of JSON, followed by the values of its inputs in order, float32 and little-endian. The answer to
/// `chunks`, `heads`, `embed` and `encode` is the number of axes, their lengths, all as uint32, and as many float32 values.
final class Pipe: PackageRunner {
  private struct Request: Encodable {
    let call: String
    /// Of a package, or the text to cut.
    var function: String?
    var row: Int?
    var inputs: [Input] = []
  }

  private struct Input: Encodable {
    let name: String
    let shape: [Int]
  }

  private struct ToldOutcome: Encodable {
    let call = "outcome"
    let name: String
    let chosen: [Int]
    let errors: [Int]
    let kl: [Double]
    let rms: Double
  }

  private struct ToldTurn: Encodable {
    let call = "turn"
    let tokens: [Int]
    let text: String
    let prefilled: Int
    let ended: String
  }

  /// One question and its answer at a time.
  private let line = Mutex(())

  func reset() throws {
    try send(Request(call: "reset"))
  }

  func runChunks(_ function: String, _ inputs: [String: Tensor], row: Int) throws -> Tensor {
    try ask("chunks", function, row, inputs)
  }

  func runHeads(_ hidden: Tensor) throws -> [Float] {
    try ask("heads", nil, nil, ["hidden_states": hidden]).values
  }

  func embed(_ role: String, _ inputs: [String: Tensor]) throws -> Tensor {
    try ask("embed", role, nil, inputs)
  }

  func encode(_ text: String) throws -> [Int] {
    try ask("encode", text, nil, [:]).values.map { Int($0) }
  }

  func tell(_ outcome: SelfTest.Outcome) throws {
    let found = outcome.comparison
    try send(
      ToldOutcome(name: outcome.name, chosen: outcome.chosen, errors: found.errors, kl: found.kl, rms: found.rms))
  }

  func tell(_ turn: Turn) throws {
    let ended = turn.ending?.rawValue ?? ""
    try send(ToldTurn(tokens: turn.tokens, text: turn.reply.text, prefilled: turn.prefilled, ended: ended))
  }

  // MARK: Bytes

  private func ask(_ call: String, _ function: String?, _ row: Int?, _ inputs: [String: Tensor]) throws -> Tensor {
    let ordered = inputs.sorted { $0.key < $1.key }
    let named = ordered.map { Input(name: $0.key, shape: $0.value.shape) }
    return try line.withLock { _ in
      try send(Request(call: call, function: function, row: row, inputs: named))
      for (_, tensor) in ordered {
        try FileHandle.standardOutput.write(contentsOf: tensor.values.withUnsafeBytes { Data($0) })
      }
      return try receive()
    }
  }

  private func send(_ request: some Encodable) throws {
    try FileHandle.standardOutput.write(contentsOf: JSONEncoder().encode(request) + Data("\n".utf8))
  }

  private func receive() throws -> Tensor {
    let axes = try read(1, as: UInt32.self)[0]
    let shape = try read(Int(axes), as: UInt32.self).map(Int.init)
    return Tensor(shape, try read(shape.reduce(1, *), as: Float.self))
  }

  private func read<Number: BitwiseCopyable>(_ count: Int, as type: Number.Type) throws -> [Number] {
    var bytes = Data()
    let wanted = count * MemoryLayout<Number>.size
    while bytes.count < wanted {
      guard let more = try FileHandle.standardInput.read(upToCount: wanted - bytes.count), !more.isEmpty else {
        throw UserError("nobody runs the packages")
      }
      bytes += more
    }
    return bytes.withUnsafeBytes { Array($0.bindMemory(to: type)) }
  }
}
