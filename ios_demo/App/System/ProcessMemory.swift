@preconcurrency import Darwin  // its global mach_task_self_
import Foundation
import os

/// Of this process, in bytes.
enum ProcessMemory {
  /// What it may still take before the system ends it.
  static var available: Int {
    Int(os_proc_available_memory())
  }

  /// What the system counts against it; mapped files that were not changed are not among it.
  static var footprint: Int {
    Int(info?.phys_footprint ?? 0)
  }

  /// The highest that it has been.
  static var peak: Int {
    Int(info?.ledger_phys_footprint_peak ?? 0)
  }

  private static var info: task_vm_info_data_t? {
    var info = task_vm_info_data_t()
    var count = mach_msg_type_number_t(MemoryLayout<task_vm_info_data_t>.size / MemoryLayout<natural_t>.size)
    let result = withUnsafeMutablePointer(to: &info) { pointer in
      pointer.withMemoryRebound(to: integer_t.self, capacity: Int(count)) {
        task_info(mach_task_self_, task_flavor_t(TASK_VM_INFO), $0, &count)
      }
    }
    return result == KERN_SUCCESS ? info : nil
  }
}
