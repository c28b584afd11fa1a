import DemoCore
import UIKit

extension BenchReport.Device {
  /// This one.
  @MainActor static var current: BenchReport.Device {
    let (process, device) = (ProcessInfo.processInfo, UIDevice.current)
    return BenchReport.Device(
      name: modelName, system: "\(device.systemName) \(device.systemVersion)", cores: process.activeProcessorCount,
      memory: Int(process.physicalMemory))
  }

  /// `iPad16,6`
  private static var modelName: String {
    var system = utsname()
    uname(&system)
    return withUnsafeBytes(of: &system.machine) { bytes in
      String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
    }
  }
}
