//! The calls about images.

use std::time::Duration;

use cri_api::v1::image_service_server::ImageService;
use cri_api::v1::{self, *};
use tokio::time::timeout;
use tonic::{Request, Response, Status};

use crate::batch::{self, BoxStream};
use crate::error::status as error_status;
use crate::patience::patience;
use crate::{Service, image};

type Answer<T> = Result<Response<T>, Status>;

impl Service {
    async fn images(&self, filter: Option<ImageFilter>) -> Result<Vec<v1::Image>, Status> {
        let name = filter.and_then(|filter| filter.image).map(|image| image.image).unwrap_or_default();
        let images = if name.is_empty() {
            self.engine.images().await
        } else {
            self.engine.image(&name).await.map(|image| image.into_iter().collect())
        };
        Ok(images.map_err(|e| error_status(&e))?.iter().map(image::item).collect())
    }
}

#[tonic::async_trait]
impl ImageService for Service {
    async fn list_images(&self, request: Request<ListImagesRequest>) -> Answer<ListImagesResponse> {
        let images = self.images(request.into_inner().filter).await?;
        Ok(Response::new(ListImagesResponse { images }))
    }

    type StreamImagesStream = BoxStream<StreamImagesResponse>;

    async fn stream_images(&self, request: Request<StreamImagesRequest>) -> Answer<Self::StreamImagesStream> {
        let items = self.images(request.into_inner().filter).await?;
        Ok(Response::new(batch::stream(items, |images| StreamImagesResponse { images })))
    }

    async fn image_status(&self, request: Request<ImageStatusRequest>) -> Answer<ImageStatusResponse> {
        let request = request.into_inner();
        let name = image::name(request.image)?;
        let info = self.engine.image(&name).await.map_err(|e| error_status(&e))?;
        Ok(Response::new(image::response(info.as_ref(), request.verbose)))
    }

    async fn pull_image(&self, request: Request<PullImageRequest>) -> Answer<PullImageResponse> {
        let patience = patience(request.metadata()).unwrap_or(Duration::MAX);
        let request = image::pull(request.into_inner())?;
        let name = request.reference.to_string();
        let pull = timeout(patience, self.engine.pull_image(request, None)).await;
        let outcome = pull.map_err(|_| {
            let text =
                format!("image {name} is still being pulled; the work goes on, ask again for its result");
            Status::deadline_exceeded(text)
        })?;
        let outcome = outcome.map_err(|e| error_status(&e))?;
        Ok(Response::new(PullImageResponse { image_ref: outcome.id.to_string() }))
    }

    async fn remove_image(&self, request: Request<RemoveImageRequest>) -> Answer<RemoveImageResponse> {
        let name = image::name(request.into_inner().image)?;
        self.engine.remove_image(&name).await.map_err(|e| error_status(&e))?;
        Ok(Response::new(RemoveImageResponse {}))
    }

    async fn image_fs_info(&self, _: Request<ImageFsInfoRequest>) -> Answer<ImageFsInfoResponse> {
        let (images, containers) = self.engine.image_fs_usage().await.map_err(|e| error_status(&e))?;
        Ok(Response::new(ImageFsInfoResponse {
            image_filesystems: vec![image::filesystem(&images)],
            container_filesystems: vec![image::filesystem(&containers)],
        }))
    }
}
