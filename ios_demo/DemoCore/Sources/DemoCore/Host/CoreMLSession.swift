import Foundation

/// The Core ML packages of a bundle as an engine: everything but running them.
public actor CoreMLSession: Engine {
  public static let format = "coreml"

  public nonisolated let name = CoreMLSession.format
  public nonisolated let context: Int
  public private(set) var position = 0
  public private(set) var resets = 0

  private let artifact: Artifact
  private let host: Host
  private let tokens: Tokens
  private let table: EmbeddingTable
  private let runner: any PackageRunner

  /// - Throws: `UserError` if the bundle holds no Core ML packages, or its embedding table is damaged.
  public init(manifest: Manifest, bundle: URL, runner: any PackageRunner) throws {
    guard let artifact = manifest.artifacts[Self.format], let host = artifact.host else {
      throw UserError("the bundle holds no Core ML packages: export it with TARGET=ios")
    }
    try host.requireConsistent()
    self.artifact = artifact
    self.host = host
    self.runner = runner
    tokens = manifest.tokens
    context = host.context
    table = try EmbeddingTable(host.embedding, bundle: bundle)
  }

  public func reset() async throws {
    position = 0
    resets += 1
    try await runner.reset()
  }

  public func rewind(to position: Int) -> Bool {
    guard host.attention.values.allSatisfy({ $0.survives(position, end: self.position) }) else { return false }
    self.position = position
    return true
  }

  public func prefill(_ inputs: ModelInputs) async throws -> [Float] {
    try requireRoom(for: inputs.tokens.count)
    try requireKnown(inputs.tokens)
    let blocks = numberBlocks(inputs.tokens, placeholder: tokens.image)
    let calls = try planCalls(from: position, blocks: blocks, prefill: host.prefill)
    let embeddings = try await embed(inputs)
    let first = position
    var hidden = Tensor([1, 1, host.hidden], repeating: 0)
    for call in calls {
      try Task.checkCancellation()
      let rows = call.start - first..<call.start - first + call.count
      hidden = try await runChunks(call, embeddings.rows(rows))
      position = call.start + call.count
    }
    return try await runner.runHeads(hidden)
  }

  private func runChunks(_ call: Call, _ rows: ArraySlice<Float>) async throws -> Tensor {
    var inputs = host.inputs(of: call)
    inputs["hidden_states"] = padded(rows, to: call.length, width: host.hidden)
    return try await runner.runChunks(call.function, inputs, row: call.count - 1)
  }

  // MARK: Embeddings

  private func requireKnown(_ ids: [Int]) throws {
    if let id = ids.first(where: { !(0..<host.embedding.rows).contains($0) }) {
      throw UserError("token \(id) is not among the \(host.embedding.rows) of the model: export the bundle again")
    }
  }

  /// `[T, hidden]`: tokens, and soft tokens where their placeholders stand.
  private func embed(_ inputs: ModelInputs) async throws -> Tensor {
    let scale = Float(host.embeddingScale)
    let placeholders = Set([tokens.image, tokens.audio].compactMap { $0 })
    let looked = inputs.tokens.map { placeholders.contains($0) ? tokens.pad : $0 }
    var rows = Tensor([looked.count, host.hidden], looked.flatMap { table.row($0).map { $0 * scale } })
    var images: [Float] = []
    for image in inputs.images { images += try await softTokens("vision", [image.patches, image.cells]) }
    var clips: [Float] = []
    for clip in inputs.clips { clips += try await softTokens("speech", [clip.frames]) }
    try rows.place(images, where: inputs.tokens.map { $0 == tokens.image })
    try rows.place(clips, where: inputs.tokens.map { $0 == tokens.audio })
    return rows
  }

  /// `[n, ...]` of each input -> `[n, hidden]`, so many rows in a call as the embedder takes.
  private func softTokens(_ role: String, _ inputs: [Tensor]) async throws -> [Float] {
    guard let program = artifact.programs[role], let length = program.inputs[0].shape[1].length else {
      throw UserError("the bundle has no \(role) package: leave such media out of the prompt")
    }
    let count = inputs[0].shape[0]
    var found: [Float] = []
    for start in stride(from: 0, to: count, by: length) {
      let rows = start..<min(start + length, count)
      let pieces = zip(program.inputs, inputs).map { port, all in
        (port.name, padded(all.rows(rows), to: length, width: all.rowLength))
      }
      let soft = try await runner.embed(role, Dictionary(uniqueKeysWithValues: pieces))
      found += soft.rows(0..<rows.count)
    }
    return found
  }
}

extension Host {
  /// What says one thing twice must say the same.
  fileprivate func requireConsistent() throws {
    let rotations = attention.values.allSatisfy { $0.inverseFrequencies.count * 2 == $0.headDim }
    guard rotations, embedding.columns == hidden else {
      throw UserError("the manifest's sizes of Core ML packages do not fit each other: export the bundle again")
    }
  }
}

/// `[n, width]` -> `[1, length, width]`, zeros at the end.
private func padded(_ rows: ArraySlice<Float>, to length: Int, width: Int) -> Tensor {
  Tensor([1, length, width], rows + Array(repeating: 0, count: length * width - rows.count))
}
