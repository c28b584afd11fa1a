import Foundation

extension Manifest {
  /// What types alone do not say.
  ///
  /// - Throws: `UserError` for a value out of its range, or a path that leads out of the bundle.
  func validate() throws {
    try limits.validate()
    try sampling.validate()
    try require([8, 32].contains(recipe.kvBits), "recipe.kv_bits")
    try require(files.allSatisfy { isCount($0.size) }, "files.size")
    try require(tensors.allSatisfy { $0.shape.count <= 8 && $0.shape.allSatisfy(isCount) }, "tensors.shape")
    try dialogue?.validate()
    for (format, artifact) in artifacts {
      try artifact.host?.validate("artifacts.\(format).host")
      try require(isCount(artifact.cache.fixed) && isCount(artifact.cache.perPosition), "artifacts.\(format).cache")
    }
    for path in namedPaths where !isInside(path) {
      throw UserError(
        "\(ManifestReader.file) names \(path.debugDescription), which leads out of the bundle: "
          + "export the bundle again")
    }
  }

  /// All that a reader might open.
  var namedPaths: [String] {
    files.map(\.path) + Array(artifacts.keys) + artifacts.values.flatMap(\.namedPaths)
      + goldens.flatMap { [$0.file, $0.tensors] }
  }
}

extension Artifact {
  fileprivate var namedPaths: [String] {
    let options = (loadOptions ?? [:]).values.flatMap { $0.filter { $0.key.hasSuffix("_path") }.values }
    let written = options.compactMap { if case .text(let path) = $0 { path } else { nil } }
    return programs.values.map(\.file) + (host?.namedPaths ?? []) + written
  }
}

extension Host {
  fileprivate var namedPaths: [String] {
    chunks + heads + [embedding.codes] + [embedding.scales].compactMap { $0 }
  }

  fileprivate func validate(_ path: String) throws {
    try require([context, prefill, hidden, vocabulary].allSatisfy(isPositive), path)
    try require(computeUnits == "cpuAndGPU", "\(path).compute_units")
    try require([4, 8, 32].contains(embedding.bits), "\(path).embedding.bits")
    try require([embedding.rows, embedding.columns, embedding.group].allSatisfy(isPositive), "\(path).embedding")
    for (kind, layers) in attention {
      let sizes = [layers.slots, layers.headDim, layers.window ?? 1]
      try require(sizes.allSatisfy(isPositive), "\(path).attention.\(kind)")
    }
  }
}

extension Dialogue {
  fileprivate func validate() throws {
    try require(Set(turns.keys).isSubset(of: ["system", "user", "model"]), "dialogue.turns")
    try require(Set(media.keys).isSubset(of: ["image", "audio", "video"]), "dialogue.media")
    try require(Set(order).isSubset(of: ["image", "video", "audio", "text"]), "dialogue.order")
  }
}

extension Limits {
  fileprivate func validate() throws {
    try require([context, slidingWindow].allSatisfy(isPositive), "limits")
    try require([imageSoftTokens ?? 0, audioSoftTokens ?? 0, minimumMemory].allSatisfy(isCount), "limits")
  }
}

extension Sampling {
  fileprivate func validate() throws {
    try require(temperature >= 0 && temperature.isFinite, "sampling.temperature")
    try require(topP >= 0 && topP.isFinite, "sampling.top_p")
    try require(isCount(topK), "sampling.top_k")
  }
}

/// Relative, with forward slashes, and below the bundle.
private func isInside(_ path: String) -> Bool {
  let parts = path.split(separator: "/", omittingEmptySubsequences: false)
  return !path.contains("\\") && !path.contains("\0") && parts.allSatisfy { !["", ".", ".."].contains($0) }
}

private func isCount(_ value: Int) -> Bool { value >= 0 && value < 1 << 53 }
private func isPositive(_ value: Int) -> Bool { value > 0 && value < 1 << 53 }

private func require(_ holds: Bool, _ path: String) throws {
  guard holds else {
    throw UserError("\(ManifestReader.file): \(path) is out of its range; export the bundle again")
  }
}
