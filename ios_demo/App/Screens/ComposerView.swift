import PhotosUI
import SwiftUI

/// Where a question is written, with pictures, a clip or a file beside it.
struct ComposerView: View {
  @Environment(AppModel.self) private var model
  @Bindable var chat: ChatModel
  @State private var recorder = Recorder()
  @State private var photo: PhotosPickerItem?
  @State private var showsPhotos = false
  @State private var showsCamera = false
  @State private var showsFiles = false

  var body: some View {
    VStack(alignment: .leading) {
      ScrollView(.horizontal) {
        HStack {
          ForEach(Array(chat.attachments.enumerated()), id: \.offset) { index, attachment in
            AttachmentView(attachment: attachment)
            Button("Remove", systemImage: "xmark.circle.fill") { chat.detach(index) }.labelStyle(.iconOnly)
          }
        }
      }
      HStack(alignment: .bottom) {
        mediaMenu
        TextField("Ask something", text: $chat.text, axis: .vertical).lineLimit(1...6).textFieldStyle(.roundedBorder)
        if chat.isAnswering {
          Button("Stop", systemImage: "stop.circle.fill", action: chat.stop)
        } else {
          Button("Send", systemImage: "arrow.up.circle.fill", action: chat.send).disabled(!chat.canSend)
        }
      }
      .labelStyle(.iconOnly)
      .font(.title2)
    }
    .padding()
    .background(.bar)
    .photosPicker(isPresented: $showsPhotos, selection: $photo, matching: .images)
    .onChange(of: photo) { attachPhoto() }
    .fileImporter(isPresented: $showsFiles, allowedContentTypes: [.audio]) { result in
      tell { try await attachFile(result.get()) }
    }
    .fullScreenCover(isPresented: $showsCamera) {
      CameraPicker { data in
        showsCamera = false
        if let data { tell { try await chat.attachPicture(data) } }
      }
    }
  }

  private var mediaMenu: some View {
    Menu("Add", systemImage: recorder.isRecording ? "stop.fill" : "plus.circle") {
      Button("Photo", systemImage: "photo") { showsPhotos = true }
      if CameraPicker.isAvailable { Button("Camera", systemImage: "camera") { showsCamera = true } }
      Button("Sound file", systemImage: "waveform") { showsFiles = true }
      Button(recorder.isRecording ? "End recording" : "Record", systemImage: "mic") { record() }
    }
  }

  private func tell(_ work: @escaping () async throws -> Void) {
    Task { await model.tellTrouble(work) }
  }

  private func attachPhoto() {
    guard let item = photo else { return }
    photo = nil
    tell {
      if let data = try await item.loadTransferable(type: Data.self) { try await chat.attachPicture(data) }
    }
  }

  private func attachFile(_ file: URL) async throws {
    guard file.startAccessingSecurityScopedResource() else { return }
    defer { file.stopAccessingSecurityScopedResource() }
    try await chat.attachSound(file)
  }

  private func record() {
    tell {
      if recorder.isRecording {
        try await chat.attachSound(recorder.stop())
      } else {
        try await recorder.start(longest: chat.longestClip())
      }
    }
  }
}
