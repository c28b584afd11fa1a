/// Whether a bundle fits this device's memory, asked before anything of it is loaded. Loading is never forbidden.
/// `runtime/fit.py` in Swift.
public struct DeviceFit: Sendable, Equatable {
  public enum Verdict: String, Sendable {
    case fits
    /// Other apps must give up memory first, or the system ends this one.
    case tight
    case tooLarge = "too large"
  }

  /// Bytes: weights as the engine holds them, and caches of the whole context.
  public let needed: Int
  /// Bytes of the device.
  public let total: Int
  /// Bytes that this app may still take (`os_proc_available_memory`).
  public let available: Int

  public init(needed: Int, total: Int, available: Int) {
    self.needed = needed
    self.total = total
    self.available = available
  }

  public var verdict: Verdict {
    if needed > total { return .tooLarge }
    return needed > available ? .tight : .fits
  }

  /// For people, with numbers; nil where it fits.
  public var warning: String? {
    switch verdict {
    case .fits: nil
    case .tight:
      "This model needs \(gigabytes(needed)) of memory, the system grants \(gigabytes(available)) now. Close other apps, "
        + "or loading it may end this one."
    case .tooLarge:
      "This model needs \(gigabytes(needed)) of memory, this device has \(gigabytes(total)). Loading it will most likely "
        + "end the app."
    }
  }
}

/// Bytes as `7.3 GB`, in decimal units, halves upwards.
public func gigabytes(_ bytes: Int) -> String {
  let tenths = (bytes + 50_000_000) / 100_000_000
  return "\(tenths / 10).\(tenths % 10) GB"
}
