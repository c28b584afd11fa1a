import DemoCore
import ExecuTorch
import Foundation

/// The `.pte` of a bundle by ExecuTorch's runtime, called as its multimodal runner calls it: an alternative to Core ML
/// with the same answers. `runtime/sessions/executorch.py` in Swift.
actor ExecuTorchSession: Engine {
  static let format = "executorch"

  private let queue = DispatchSerialQueue(label: "executorch")
  nonisolated var unownedExecutor: UnownedSerialExecutor { queue.asUnownedSerialExecutor() }

  nonisolated let name = ExecuTorchSession.format
  nonisolated let context: Int
  private(set) var position = 0
  private(set) var resets = 0

  private let module: Module
  private let tokens: Tokens
  private let longest: Int

  /// - Parameter caches: folder for XNNPACK's packed weights, which later loads map.
  /// - Throws: `UserError` if the bundle holds no program; what ExecuTorch throws.
  init(manifest: Manifest, bundle: URL, caches: URL) throws {
    guard let artifact = manifest.artifacts[Self.format], let file = artifact.programs["decoder"]?.file else {
      throw UserError("the bundle holds no .pte: export it with FORMATS=\"coreml executorch\"")
    }
    let module = Module(filePath: bundle.appending(path: file).path, loadMode: .mmap)
    if let options = try artifact.backendOptions(below: caches) {
      try module.load(options: options)
    } else {
      try module.load()
    }
    context = try module.constant("get_max_context_len")
    longest = try module.constant("get_max_step")
    tokens = manifest.tokens
    self.module = module
  }

  /// Slots that the new sequence has not written are hidden by their positions, whatever they hold.
  func reset() {
    position = 0
    resets += 1
  }

  /// A ring holds a window and a step, so that a step's worth may be written over.
  func rewind(to position: Int) -> Bool {
    guard self.position - position <= longest else { return false }
    self.position = position
    return true
  }

  func prefill(_ inputs: ModelInputs) throws -> [Float] {
    try requireRoom(for: inputs.tokens.count)
    let embeddings = try embed(inputs)
    let inside = inputs.tokens.map { $0 == tokens.image }
    var logits: [Float] = []
    for step in try steps(inside: inside, longest: longest) {
      try Task.checkCancellation()
      logits = try decode(embeddings, step)
    }
    return logits
  }

  private func decode(_ embeddings: DemoCore.Tensor, _ step: Range<Int>) throws -> [Float] {
    let rows = ExecuTorch.Tensor<Float>(Array(embeddings.rows(step)), shape: [1, step.count, embeddings.rowLength])
    let positions = ExecuTorch.Tensor<Int64>((position..<position + step.count).map(Int64.init), shape: [step.count])
    let logits: ExecuTorch.Tensor<Float> = try module.execute("text_decoder", rows, positions)
    position += step.count
    return logits.scalars()
  }

  // MARK: Embeddings

  /// `[T, hidden + 1]`: tokens, and soft tokens where their placeholders stand.
  private func embed(_ inputs: ModelInputs) throws -> DemoCore.Tensor {
    let placeholders = Set([tokens.image, tokens.audio].compactMap { $0 })
    let looked = inputs.tokens.map { Int64(placeholders.contains($0) ? tokens.pad : $0) }
    var values: [Float] = []
    for start in stride(from: 0, to: looked.count, by: longest) {
      let part = Array(looked[start..<min(start + longest, looked.count)])
      values += try run("token_embedding", ExecuTorch.Tensor<Int64>(part, shape: [1, part.count]))
    }
    var rows = DemoCore.Tensor([looked.count, values.count / looked.count], values)
    let images = try inputs.images.flatMap { try embed($0) }
    let clips = try inputs.clips.flatMap { clip in
      try run("audio_encoder", ExecuTorch.Tensor<Float>(clip.frames.values, shape: [1] + clip.frames.shape))
    }
    try rows.place(images, where: inputs.tokens.map { $0 == tokens.image })
    try rows.place(clips, where: inputs.tokens.map { $0 == tokens.audio })
    return rows
  }

  private func embed(_ image: ImagePatches) throws -> [Float] {
    try image.requireSides(upTo: module.constant("get_max_image_side"))
    return try run("vision_encoder", image.joined)
  }

  private func run(_ method: String, _ input: any ValueConvertible) throws -> [Float] {
    let output: ExecuTorch.Tensor<Float> = try module.execute(method, input)
    return output.scalars()
  }
}

extension Module {
  fileprivate func constant(_ name: String) throws -> Int {
    try execute(name)
  }
}

extension ImagePatches {
  /// The image that the patches were cut from, `[1, 3, height, width]`. Patches lie in the order of their rows.
  fileprivate var joined: ExecuTorch.Tensor<Float> {
    let image = planes
    return ExecuTorch.Tensor<Float>(image.values, shape: image.shape)
  }
}

extension Artifact {
  /// What the manifest says to load with, paths below a folder.
  fileprivate func backendOptions(below folder: URL) throws -> BackendOptionsMap? {
    guard let loadOptions else { return nil }
    return try BackendOptionsMap(
      options: loadOptions.mapValues { options in
        options.map { key, value in
          switch value {
          case .flag(let flag): BackendOption(key, flag)
          case .text(let text): BackendOption(key, key.hasSuffix("_path") ? folder.appending(path: text).path : text)
          }
        }
      })
  }
}
