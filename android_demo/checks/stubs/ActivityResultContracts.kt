package androidx.activity.result.contract

import android.net.Uri

abstract class ActivityResultContract<I, O>

class ActivityResultContracts private constructor() {
    class GetContent : ActivityResultContract<String, Uri?>()

    class OpenDocumentTree : ActivityResultContract<Uri?, Uri?>()

    class RequestPermission : ActivityResultContract<String, Boolean>()

    class TakePicture : ActivityResultContract<Uri, Boolean>()
}
