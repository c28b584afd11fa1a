import Foundation

/// What a benchmark came to, as the JSON that `python -m runtime report --bench` reads.
public struct BenchReport: Sendable {
  public let bundle: String
  public let manifest: Manifest
  public let engine: String
  public let work: Benchmark.Work
  public let text: [Benchmark.TextSpeed]
  /// Seconds to open the artifact.
  public let load: Double
  public let memory: Memory
  public let device: Device

  /// Of the process, in bytes.
  public struct Memory: Sendable {
    public let loaded: Int
    public let steady: Int
    public let peak: Int

    public init(loaded: Int, steady: Int, peak: Int) {
      self.loaded = loaded
      self.steady = steady
      self.peak = peak
    }
  }

  /// That all was measured on.
  public struct Device: Sendable {
    public let name: String
    public let system: String
    public let cores: Int
    /// Bytes.
    public let memory: Int

    public init(name: String, system: String, cores: Int, memory: Int) {
      self.name = name
      self.system = system
      self.cores = cores
      self.memory = memory
    }
  }

  public init(
    bundle: String, manifest: Manifest, engine: String, work: Benchmark.Work, text: [Benchmark.TextSpeed], load: Double,
    memory: Memory, device: Device
  ) {
    self.bundle = bundle
    self.manifest = manifest
    self.engine = engine
    self.work = work
    self.text = text
    self.load = load
    self.memory = memory
    self.device = device
  }

  public var json: JSONValue {
    [
      "bundle": .string(bundle), "target": .string(manifest.target), "recipe": .string(manifest.recipe.name),
      "context": count(manifest.limits.context), "device": .string("app:\(device.name)"),
      "work": workJSON, "machine": machineJSON, "engines": [engineJSON],
      "ratios": [], "skipped": [:], "notes": ["measured by the iOS demo"], "energy": nil,
    ]
  }

  private var workJSON: JSONValue {
    [
      "lengths": .array(work.lengths.map(count)), "contexts": .array(work.contexts.map(count)),
      "tokens": count(work.tokens), "repeats": count(work.repeats), "warmup": count(work.warmup),
      "loads": 1, "threads": nil,
    ]
  }

  private var machineJSON: JSONValue {
    [
      "name": .string(device.name), "system": .string(device.system), "cores": count(device.cores),
      "threads": count(device.cores), "memory": count(device.memory), "load": nil, "packages": [:],
    ]
  }

  private var engineJSON: JSONValue {
    [
      "engine": .string(engine), "load": Figure([load]).json, "first_token": nil, "threads": nil,
      "text": .array(text.map(\.json)), "media": [], "notes": [],
      "memory": [
        "imported": nil, "loaded": resident(memory.loaded), "steady": resident(memory.steady),
        "peak": resident(memory.peak),
      ],
    ]
  }
}

extension Benchmark.TextSpeed {
  fileprivate var json: JSONValue {
    [
      "length": count(length), "first_token": firstToken.json, "prefill": prefill.json, "decode": decode?.json ?? nil,
    ]
  }
}

private func count(_ value: Int) -> JSONValue { .number(Double(value)) }

/// The system does not tell what a file backs.
private func resident(_ bytes: Int) -> JSONValue { ["anonymous": nil, "file": nil, "total": count(bytes)] }
