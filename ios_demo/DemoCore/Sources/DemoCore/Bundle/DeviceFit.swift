/// Whether a bundle fits the memory that the system grants, asked before anything is loaded.
public struct DeviceFit: Sendable, Equatable {
  /// Bytes: weights as the engine holds them, and caches of the whole context.
  public let needed: Int
  /// Bytes that this process may still take (`os_proc_available_memory`).
  public let available: Int

  public init(_ manifest: Manifest, available: Int) {
    needed = manifest.limits.minimumMemory
    self.available = available
  }

  public var fits: Bool { needed <= available }

  /// For people, where it does not fit.
  public var warning: String? {
    fits
      ? nil
      : "This model needs \(gigabytes(needed)) of memory, the system grants \(gigabytes(available)). Loading it will "
        + "most likely end the app."
  }
}

/// `7.3 GB`
public func gigabytes(_ bytes: Int) -> String {
  let tenths = (bytes + 50_000_000) / 100_000_000
  return "\(tenths / 10).\(tenths % 10) GB"
}
