import CoreML
import DemoCore
import Foundation

/// The packages of a bundle in Core ML: chunks one after another, each with one `MLState` that its two functions share.
actor CoreMLPackages: PackageRunner {
  /// One chunk of the decoder.
  private struct Chunk {
    let functions: [String: MLModel]
    /// By function, what it takes.
    let ports: [String: [DemoCore.Port]]  // Foundation has a Port as well
    var state: MLState
  }

  // Core ML blocks its thread; a queue of its own keeps it off those that Swift's tasks share.
  private let queue = DispatchSerialQueue(label: "coreml")
  nonisolated var unownedExecutor: UnownedSerialExecutor { queue.asUnownedSerialExecutor() }

  private let artifact: Artifact
  private var chunks: [Chunk] = []
  private var heads: [MLModel] = []
  private var embedders: [String: MLModel] = [:]

  /// Compiles what has not been compiled before, and loads everything.
  ///
  /// - Parameter progress: told how many packages are loaded, of how many.
  /// - Throws: `UserError` if the bundle holds no Core ML packages; what Core ML throws.
  init(manifest: Manifest, bundle: URL, progress: @Sendable (Int, Int) -> Void) async throws {
    guard let artifact = manifest.artifacts[CoreMLSession.format], let host = artifact.host else {
      throw UserError("the bundle holds no Core ML packages: export it with TARGET=ios")
    }
    self.artifact = artifact
    let packages = try CompiledPackages(bundle: bundle, manifest: manifest, host: host)
    let roles = ["vision", "speech"].filter { artifact.programs[$0] != nil }
    let total = host.chunks.count + host.heads.count + roles.count
    for (index, file) in host.chunks.enumerated() {
      chunks.append(try await Self.chunk(index, file, artifact, packages))
      progress(chunks.count, total)
    }
    for file in host.heads {
      heads.append(try await packages.load(file))
      progress(chunks.count + heads.count, total)
    }
    for role in roles {
      embedders[role] = try await packages.load(artifact.programs[role]?.file ?? "")
    }
    progress(total, total)
  }

  private static func chunk(
    _ index: Int, _ file: String, _ artifact: Artifact, _ packages: CompiledPackages
  ) async throws -> sending Chunk {
    var functions: [String: MLModel] = [:]
    var ports: [String: [DemoCore.Port]] = [:]
    for function in ["decode", "prefill"] {
      functions[function] = try await packages.load(file, function: function)
      ports[function] = artifact.programs[String(format: "chunk_%02d.%@", index, function)]?.inputs
    }
    guard let state = functions["decode"]?.makeState() else { throw UserError("\(file) does not load") }
    return Chunk(functions: functions, ports: ports, state: state)
  }

  // MARK: PackageRunner

  func reset() throws {
    for index in chunks.indices {
      guard let model = chunks[index].functions["decode"] else { continue }
      chunks[index].state = model.makeState()
    }
  }

  func runChunks(_ function: String, _ inputs: [String: Tensor], row: Int) throws -> Tensor {
    var arrays: [String: MLMultiArray] = [:]
    for port in chunks.flatMap({ $0.ports[function] ?? [] }) where arrays[port.name] == nil {
      arrays[port.name] = try port.array(of: inputs)
    }
    for chunk in chunks {
      guard let model = chunk.functions[function], let ports = chunk.ports[function] else { continue }
      let given = arrays.filter { name, _ in ports.contains { $0.name == name } }
      arrays["hidden_states"] = try output("hidden_states_out", of: predict(model, given, chunk.state))
    }
    guard let hidden = arrays["hidden_states"] else { throw UserError("the bundle has no chunks") }
    return Tensor(hidden).row(row)
  }

  func runHeads(_ hidden: Tensor) throws -> [Float] {
    guard let port = artifact.programs["head_00"]?.inputs.first else { throw UserError("the bundle has no heads") }
    let given = [port.name: try port.array(of: ["hidden_states": hidden])]
    return try heads.flatMap { Tensor(try output("logits", of: predict($0, given))).values }
  }

  func embed(_ role: String, _ inputs: [String: Tensor]) throws -> Tensor {
    guard let model = embedders[role], let ports = artifact.programs[role]?.inputs else {
      throw UserError("the bundle has no \(role) package: leave such media out of the prompt")
    }
    let given = try Dictionary(uniqueKeysWithValues: ports.map { ($0.name, try $0.array(of: inputs)) })
    return Tensor(try output("soft_tokens", of: predict(model, given)))
  }

  // MARK: Core ML

  private func predict(
    _ model: MLModel, _ arrays: [String: MLMultiArray], _ state: MLState? = nil
  ) throws -> any MLFeatureProvider {
    let inputs = try MLDictionaryFeatureProvider(dictionary: arrays)
    return if let state { try model.prediction(from: inputs, using: state) } else { try model.prediction(from: inputs) }
  }

  private func output(_ name: String, of found: any MLFeatureProvider) throws -> MLMultiArray {
    guard let array = found.featureValue(for: name)?.multiArrayValue else {
      throw UserError("a package gives no \(name): export the bundle again")
    }
    return array
  }
}
