import DemoCore
import SwiftUI

/// A question or an answer, and what it took.
struct EntryView: View {
  let entry: ChatModel.Entry

  var body: some View {
    VStack(alignment: .leading, spacing: 6) {
      ForEach(Array(entry.attachments.enumerated()), id: \.offset) { AttachmentView(attachment: $0.element) }
      if !entry.reply.thoughts.isEmpty {
        DisclosureGroup("Thoughts") {
          Text(entry.reply.thoughts).italic().frame(maxWidth: .infinity, alignment: .leading)
        }
        .font(.callout).foregroundStyle(.secondary)
      }
      Text(entry.reply.text).textSelection(.enabled)
      ForEach(Array(entry.reply.calls.enumerated()), id: \.offset) { CallView(written: $0.element) }
      if let turn = entry.turn { Text(turn.summary).font(.caption2).foregroundStyle(.secondary) }
    }
    .padding(12)
    .background(entry.role == .user ? Color.accentColor.opacity(0.15) : Color(.secondarySystemBackground))
    .clipShape(.rect(cornerRadius: 14))
    .frame(maxWidth: .infinity, alignment: entry.role == .user ? .trailing : .leading)
  }
}

/// A function that the model wants called; this app calls none.
private struct CallView: View {
  let written: String

  var body: some View {
    let call = ToolCall(written)
    Label(
      call.map { "\($0.name)(\($0.arguments.keys.sorted().joined(separator: ", ")))" } ?? written,
      systemImage: "function"
    )
    .font(.callout.monospaced())
  }
}

struct AttachmentView: View {
  let attachment: Attachment

  var body: some View {
    switch attachment {
    case .picture(let patches, let data):
      if let image = UIImage(data: data) {
        Image(uiImage: image).resizable().scaledToFit().frame(maxHeight: 120).clipShape(.rect(cornerRadius: 8))
          .accessibilityLabel("Picture of \(patches.count) soft tokens")
      }
    case .sound(let frames):
      Label("\(frames.count) frames of sound", systemImage: "waveform").font(.caption)
    }
  }
}

extension Turn {
  /// As `python -m runtime chat` tells it, and the memory.
  fileprivate var summary: String {
    let seconds = first.formatted(.number.precision(.fractionLength(2)))
    let rate = rate.formatted(.number.precision(.fractionLength(1)))
    let memory = gigabytes(ProcessMemory.footprint)
    let end =
      switch ending {
      case .limit: ", stopped at the limit"
      case .context: ", the context is full"
      case .user: ", stopped"
      case .model, nil: ""
      }
    return
      "\(prefilled) positions, first token after \(seconds) s, \(tokens.count) tokens, \(rate) tokens/s, \(memory)\(end)"
  }
}
